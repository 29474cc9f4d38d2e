"""Holding back runs while SciCat refuses our login: each would fail, and log in once more to do so.

A wrong password is about every file alike, and many servers lock an account after a few tries. So the queue
starts no run while the gate is closed; nothing is lost meanwhile, and the files that found it out are retried
later. What a refused login is, is the client's business; how a run fails of it, that of ``failures``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import dagster as dg

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.orchestration.failures.policy import LOGIN
from scicat_dagster.orchestration.tags import FAILURE_TAG
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.session import REFUSAL_SECONDS, LoginRefusedError

_LOOK_SECONDS = 5.0
_AWAY_SECONDS = 30.0

_LOG = logging.getLogger(__name__)


class LoginGate:
    """Closed from when a run failed because of the login until a login succeeds.

    It is tried every five minutes, and at once when the configuration file has changed.
    """

    def __init__(self, current: CurrentConfiguration, clock: Callable[[], float] = time.monotonic) -> None:
        self._current = current
        self._clock = clock
        self._good_at = datetime.now(UTC)
        self._next_look = clock()
        self._refused_version: str | None = None

    def is_closed(self, instance: dg.DagsterInstance) -> bool:
        """Whether runs are to be held back."""
        if self._refused_version is None:
            self._look_for_refusals(instance)
        elif self._clock() >= self._next_look or self._version != self._refused_version:
            self._try()
        return self._refused_version is not None

    @property
    def _version(self) -> str:
        return self._current.read().version.hash

    def _look_for_refusals(self, instance: dg.DagsterInstance) -> None:
        if self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _LOOK_SECONDS
        refused = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE], tags={FAILURE_TAG: LOGIN}, updated_after=self._good_at
        )
        if instance.get_run_records(refused, limit=1):
            _LOG.warning("SciCat refuses our login: no run is started until it succeeds.")
            self._refused_version = self._version
            # The run has just tried.
            self._next_look = self._clock() + REFUSAL_SECONDS

    def _try(self) -> None:
        self._refused_version = self._version
        try:
            with closing(ScicatClient(self._current.read().settings.scicat)) as client:
                is_known = client.whoami() is not None
        except TransientError:
            # Nobody knows; that SciCat is away is for the runs to find out, and for now there is no hurry.
            self._next_look = self._clock() + _AWAY_SECONDS
            return
        except LoginRefusedError:
            is_known = False
        except PermanentError:
            # Another failure is each file's own.
            is_known = True
        self._next_look = self._clock() + (_LOOK_SECONDS if is_known else REFUSAL_SECONDS)
        if is_known:
            _LOG.warning("SciCat accepts our login again: runs are started.")
            self._good_at, self._refused_version = datetime.now(UTC), None
