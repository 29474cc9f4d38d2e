"""Runs that started and never ended: the asset check of ``run_starts``, and the sensor that evaluates it.

Which run that is belongs to :mod:`scicat_dagster.usecases.unended_runs`. A run is not named while somebody
could still be about to register its file: as long as there are unread messages, or SciCat does not answer.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import TypeAdapter

from scicat_dagster.config.models import MonitoringSettings
from scicat_dagster.dagster_internals import AssetCheckExecutionRecordStatus
from scicat_dagster.diagnostics.checkup import Question
from scicat_dagster.errors import IngestionError, TransientError
from scicat_dagster.kafka.started_runs import OpenRun
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.metadata import table
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import key_of
from scicat_dagster.orchestration.run_starts.open_runs import (
    DISMISSED,
    SETTLED,
    note,
    noted,
    started_runs,
)
from scicat_dagster.orchestration.tags import (
    KAFKA_LAG,
    LAG_BY_TOPIC,
    OVERSIGHT,
    OWNERS,
    RAW_DATASET,
    RUN_STARTS,
    UNENDED_RUNS,
)
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.usecases.unended_runs import (
    OnDisk,
    UnendedRun,
    looked_at,
    overdue,
    registered,
    unended,
)
from scicat_dagster.wording import numbered

RUNS_ENDED = "runs_ended"

LONGEST_LAG_AGE = timedelta(minutes=15)
"""The lag is reported every ten minutes; an older report says nothing about today's messages."""

ASKED_AGAIN_SECONDS = 3600.0
"""How often SciCat is asked for the file of an overdue run. What this instance is asked to register is seen
at once."""

_STORAGE_SECONDS = 10.0

_RUNS = TypeAdapter(tuple[UnendedRun, ...])


class Watch:
    """What is kept between two looks, so that neither the storage nor SciCat is asked too much.

    Files are looked at in a thread of its own: a storage that hangs holds up this one, however often asked.
    SciCat is asked once in a while for the same run: its answer lists the files of a whole folder.
    """

    def __init__(
        self, storage_seconds: float = _STORAGE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage_seconds = storage_seconds
        self._clock = clock
        self._wanted: Sequence[str] = ()
        self._question = Question(lambda: looked_at(self._wanted), kept_seconds=0.0)
        self._asked: dict[str, float] = {}

    def look(self, paths: Sequence[str]) -> dict[str, OnDisk]:
        """What lies at each path; nothing of those for which the storage does not answer in time."""
        self._wanted = paths
        self._question.begin()
        return self._question.answer(self._storage_seconds) or {}

    def registered(self, found: Sequence[UnendedRun], catalogue: ScicatClient) -> set[str]:
        """The jobs whose file SciCat has, of those of which it was not asked lately; raises as its client."""
        now = self._clock()
        asked = {job: at for job, at in self._asked.items() if now - at < ASKED_AGAIN_SECONDS}
        new = [each for each in found if each.run.job_id not in asked]
        known = registered(new, catalogue) if new else set()
        self._asked = asked | {each.run.job_id: now for each in new}
        return known


def find_unended(
    instance: dg.DagsterInstance, facility: Facility, watch: Watch, now: datetime
) -> tuple[UnendedRun, ...]:
    """The runs that started and never ended; none where the configuration does not want to know.

    Raises
    ------
    TransientError, PermanentError
        Nobody can say now.
    """
    settings, names = facility.settings, facility.names
    longest = timedelta(hours=settings.monitoring.unended_run_hours)
    if not longest:
        return ()
    awaited = overdue(started_runs(instance, names).open, longest, now)
    late = _unsettled(instance, awaited, settings.ingestion.file_handling.data_directory, names)
    if not late:
        return ()
    if not is_everything_read(instance, now, names):
        raise TransientError(
            "There are messages still to be read, which may be about these runs.",
            remedy="Nothing; if it goes on, see why wrdn_sensor does not read them.",
        )
    found = unended(late, watch.look([run.file for run in late]), longest, now)
    known = watch.registered(found, facility.catalogue)
    note(instance, SETTLED, known, names)
    return tuple(each for each in found if each.run.job_id not in known)


def _unsettled(
    instance: dg.DagsterInstance, awaited: Sequence[OpenRun], data_directory: str, names: Names
) -> list[OpenRun]:
    """Those whose file was not registered by another way, and of which somebody wants to hear."""
    if not awaited:
        return []
    left_out = noted(instance, SETTLED, names) | noted(instance, DISMISSED, names)
    runs = [run for run in awaited if run.job_id not in left_out]
    # A file that was requested may still fail, by a run that knew nothing of its message.
    done = {run.job_id for run in runs if _is_registered(instance, key_of(run.file, data_directory), names)}
    if done:
        note(instance, SETTLED, done, names)
    return [run for run in runs if run.job_id not in done]


def _is_registered(instance: dg.DagsterInstance, partition_key: str, names: Names) -> bool:
    wanted = dg.AssetRecordsFilter(names.key(RAW_DATASET), asset_partitions=[partition_key])
    return bool(instance.fetch_materializations(wanted, limit=1).records)


def is_everything_read(instance: dg.DagsterInstance, now: datetime, names: Names = UNPREFIXED) -> bool:
    """Whether ``wrdn_sensor`` has said lately that no message waits."""
    event = instance.get_latest_materialization_event(names.key(KAFKA_LAG))
    materialization = event.asset_materialization if event is not None else None
    if event is None or materialization is None or LAG_BY_TOPIC not in materialization.metadata:
        return False
    waiting: Any = materialization.metadata[LAG_BY_TOPIC].value
    return now.timestamp() - event.timestamp < LONGEST_LAG_AGE.total_seconds() and not any(waiting.values())


def _words(found: Sequence[UnendedRun]) -> str:
    if not found:
        return "No run is overdue."
    files = ", ".join(each.run.file.rpartition("/")[2] for each in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"{numbered(len(found), 'run')} started and never ended: {files}{more}."


def _shown(found: Sequence[UnendedRun]) -> dict[str, dg.MetadataValue]:
    rows = (
        (
            each.run.file,
            each.run.instrument or "unknown",
            each.run.started.isoformat(timespec="seconds"),
            each.where,
            each.remedy,
            each.run.job_id,
        )
        for each in found
    )
    return {
        "runs": table(("file", "instrument", "started", "on disk", "what to do", "job"), rows),
        UNENDED_RUNS: dg.MetadataValue.json(_RUNS.dump_python(tuple(found), mode="json")),
    }


def reported_unended(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> tuple[UnendedRun, ...]:
    """The runs that the check named when it was evaluated last."""
    key = dg.AssetCheckKey(names.key(RUN_STARTS), RUNS_ENDED)
    record = instance.get_latest_asset_check_evaluation_record(key)
    if record is None or record.status is not AssetCheckExecutionRecordStatus.FAILED or record.event is None:
        return ()
    event = record.event.dagster_event
    evaluation = event.asset_check_evaluation_data if event is not None else None
    if evaluation is None or UNENDED_RUNS not in evaluation.metadata:
        return ()
    return _RUNS.validate_python(evaluation.metadata[UNENDED_RUNS].value)


def run_starts_sensor(settings: MonitoringSettings, names: Names) -> dg.SensorDefinition:
    """The sensor, with what it keeps between its ticks. It looks seldom where nobody wants to know."""
    watch = Watch()

    @dg.sensor(
        name=names.name("run_starts_sensor"),
        required_resource_keys={names.facility},
        minimum_interval_seconds=60 if settings.unended_run_hours else 600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="Evaluates the check `runs_ended` of `run_starts` each minute, and reports it when a run "
        "is overdue or no longer is. It does nothing where the configuration has no "
        "`monitoring.unended_run_hours`.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult | dg.SkipReason:
        facility = facility_in(context, names)
        if not facility.settings.monitoring.unended_run_hours and context.cursor is None:
            return dg.SkipReason("The configuration has no monitoring.unended_run_hours.")
        try:
            found = find_unended(context.instance, facility, watch, datetime.now(UTC))
        except IngestionError as error:
            return dg.SkipReason(f"Nobody can say now which runs are overdue. {error}")
        cursor = _checksum(found)
        if cursor == context.cursor:
            return dg.SkipReason(_words(found))
        evaluation = dg.AssetCheckEvaluation(
            asset_key=names.key(RUN_STARTS),
            check_name=RUNS_ENDED,
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR,
            description=_words(found),
            metadata=_shown(found),
        )
        return dg.SensorResult(asset_events=[evaluation], cursor=cursor, skip_reason=_words(found))

    return sensor


def _checksum(found: Sequence[UnendedRun]) -> str:
    """The same for what people would call the same."""
    content = sorted((each.run.job_id, each.on_disk.state) for each in found)
    return hashlib.sha256(str(content).encode()).hexdigest()[:12]


def unended_runs(names: Names) -> dg.AssetChecksDefinition:
    """The check, executed by hand."""

    @dg.multi_asset_check(
        name=names.name("unended_runs"),
        specs=[
            dg.AssetCheckSpec(
                RUNS_ENDED,
                asset=names.key(RUN_STARTS),
                description="Each run that has started is followed by the announcement of its file within "
                "`monitoring.unended_run_hours`. A finding says whether the file lies on disk, and what to "
                "do.",
            )
        ],
        required_resource_keys={names.facility},
        description="Looks for runs that started and never ended. `run_starts_sensor` does so each minute.",
    )
    def unended_runs(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        facility = facility_in(context, names)
        try:
            found = find_unended(context.instance, facility, Watch(), datetime.now(UTC))
        except IngestionError as error:
            raise dg.Failure(str(error)) from None
        return dg.AssetCheckResult(
            check_name=RUNS_ENDED, passed=not found, description=_words(found), metadata=_shown(found)
        )

    return unended_runs
