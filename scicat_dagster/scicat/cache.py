"""Answers of the catalogue that many files of one run ask for: their proposals and instruments.

Only for what schemas ask; what is to be written is looked for anew each time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import JsonValue

from scicat_dagster.scicat.client import ScicatClient


class CachedAnswers:
    """Asks the catalogue once for each thing. Failures are not cached."""

    def __init__(self, client: ScicatClient) -> None:
        self._fetch = cache(client.fetch)
        self._samples = cache(client.samples_of_proposal)

    def fetch(self, url: str) -> JsonValue:
        """As :meth:`ScicatClient.fetch`."""
        return self._fetch(url)

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """As :meth:`ScicatClient.samples_of_proposal`."""
        return self._samples(proposal_id)
