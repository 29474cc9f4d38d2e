"""Answers of the catalogue that many files ask for: their proposals and instruments.

Only for what schemas and checks ask; what is to be written is looked for anew each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import JsonValue

from scicat_dagster.config.models import ApiEndpoints
from scicat_dagster.dataset.samples import SampleSource
from scicat_dagster.scicat.client import ScicatClient

KEPT_SECONDS = 60.0

_MOST_KEPT = 1000


class CachedAnswers:
    """Asks the catalogue once for each thing, for the time of a run. Failures are not cached."""

    def __init__(self, catalogue: SampleSource) -> None:
        self._fetch = cache(catalogue.fetch)
        self._samples = cache(catalogue.samples_of_proposal)

    def fetch(self, url: str) -> JsonValue:
        """As :meth:`ScicatClient.fetch`."""
        return self._fetch(url)

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """As :meth:`ScicatClient.samples_of_proposal`."""
        return self._samples(proposal_id)


class KeptAnswers:
    """Keeps for a minute what the catalogue has of proposals and instruments, for files that come in a burst.

    With a slow catalogue a file waits for each of its requests, and most files of an instrument name the same
    two entries. Nothing else is kept, and neither are failures and empty answers.
    """

    def __init__(
        self, client: ScicatClient, endpoints: ApiEndpoints, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        collections = {"proposals", "instruments", endpoints.proposals, endpoints.instruments}
        self._beginnings = tuple(f"{name}{sign}" for name in collections for sign in "/?")
        self._clock = clock
        self._kept: dict[str, tuple[float, JsonValue]] = {}

    def fetch(self, url: str) -> JsonValue:
        """As :meth:`ScicatClient.fetch`."""
        if not url.startswith(self._beginnings):
            return self._client.fetch(url)
        now = self._clock()
        at, kept = self._kept.get(url, (now - KEPT_SECONDS, None))
        if now - at < KEPT_SECONDS:
            return kept
        answer = self._client.fetch(url)
        if answer:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[url] = (now, answer)
        return answer

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """As :meth:`ScicatClient.samples_of_proposal`; one may have been made for the file a moment ago."""
        return self._client.samples_of_proposal(proposal_id)
