"""Past files in Dagster: what is done about files on disk that the catalogue does not hold.

Three ways lead from a missing file to its run: the partitions page, a backfill (``scicat-dagster discover
--backfill``), and a *request*. Requests are what the nightly sweep makes. An asset cannot launch runs, and a
run for each of a hundred thousand files must not lie in the queue before the live ones. So a request is an
observation of the asset ``reconciliation`` that names files; the sensor takes its position in these
observations for its cursor, and turns as many files into runs as there is room for. Dagster stores a
tick's run requests and cursor together, so that a crash loses nothing: who crashes before the observation is
written leaves nothing behind, and the next sweep finds the same files; who crashes afterwards finds it there.

What was found is ``scicat_dagster.discovery``'s business.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from scicat_dagster.discovery import DEFAULT_PATTERNS, Criteria, Discovery, LeftOut, discover, walk
from scicat_dagster.errors import PermanentError
from scicat_dagster.orchestration.assets import GROUP, raw_dataset
from scicat_dagster.orchestration.dagster_internals import (
    NOT_FINISHED_STATUSES,
    AssetGraph,
    AssetGraphSubset,
    AssetKeyPartitionKey,
    BulkActionsFilter,
    BulkActionStatus,
    InstigatorType,
    PartitionBackfill,
    SensorInstigatorData,
    make_new_backfill_id,
)
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.failures import explained
from scicat_dagster.orchestration.inventory import failed_files
from scicat_dagster.orchestration.jobs import ingest_file
from scicat_dagster.orchestration.labels import OWNERS, PAST_FILES, kinds
from scicat_dagster.orchestration.partitions import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    RAW_DATASET,
    RECONCILE_SENSOR,
    RECONCILIATION,
    nexus_files,
)
from scicat_dagster.settings import ReconcileSettings, Settings

REQUESTED_BY_TAG = "scicat/requested_by"
PRIORITY_TAG = "dagster/priority"

SETTLED_AFTER = timedelta(hours=1)
"""The sweep leaves younger files to the announcement that is on its way."""

MOST_UNFINISHED = 200
"""Of the runs that were requested here. Each one in the queue costs the queue's daemon time at each look."""

MOST_FILES_IN_A_BACKFILL = 10_000
"""Dagster writes a backfill's list of partitions down after each 25 runs."""

_FILES_IN_AN_OBSERVATION = 500
_KEYS_AT_ONCE = 1000
_MOST_ROWS = 500
_PAGE = 500
_LONGEST_SWEEP = {"dagster/max_runtime": str(6 * 3600)}
"""Run monitoring ends other runs after minutes."""


def tags_of(requester: str) -> dict[str, str]:
    """The tags of runs for past files: live announcements go first."""
    return {PRIORITY_TAG: "-1", REQUESTED_BY_TAG: requester}


# What Dagster knows about files


def files_in_flight(instance: dg.DagsterInstance) -> set[str]:
    """The files that need no further run: one is not finished, or a backfill or request will start one."""
    return (
        _with_unfinished_runs(instance)
        | _in_backfills(instance)
        | {file.path for file in requested_files(instance, _position(instance))}
    )


def known_pids(instance: dg.DagsterInstance, paths: Sequence[str]) -> dict[str, str]:
    """The pids under which runs of ours registered files, for those that the catalogue lists elsewhere."""
    materialized = instance.get_materialized_partitions(RAW_DATASET)
    partitions = [path for path in paths if path in materialized]
    pids: dict[str, str] = {}
    for part in _parts(partitions, _PAGE):
        wanted = dg.AssetRecordsFilter(RAW_DATASET, asset_partitions=part)
        cursor = None
        while True:
            page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor)
            for record in page.records:
                event = record.asset_materialization
                pid = event.metadata.get("pid") if event else None
                if event and event.partition and pid is not None:
                    # The newest comes first.
                    pids.setdefault(event.partition, str(pid.value))
            if not page.has_more:
                break
            cursor = page.cursor
    return pids


def add_partitions(instance: dg.DagsterInstance, paths: Iterable[str]) -> None:
    """Add the partitions of files, leaving alone those that are there."""
    for part in _parts(list(dict.fromkeys(paths)), _KEYS_AT_ONCE):
        instance.add_dynamic_partitions(nexus_files.name or "", part)


def start_backfills(instance: dg.DagsterInstance, paths: Sequence[str], requester: str) -> list[str]:
    """Let Dagster's daemon register files in backfills of ``raw_dataset``; the answer is their ids.

    They are what *Materialize* on the partitions page makes. Each is stored at once and whole, so that an
    interruption leaves files without a backfill, which the next call finds, and never half a backfill.
    """
    add_partitions(instance, paths)
    graph = AssetGraph.from_assets([raw_dataset])
    ids = []
    parts = list(_parts(paths, MOST_FILES_IN_A_BACKFILL))
    for number, part in enumerate(parts, 1):
        wanted = {AssetKeyPartitionKey(RAW_DATASET, path) for path in part}
        backfill = PartitionBackfill.from_asset_graph_subset(
            backfill_id=make_new_backfill_id(),
            backfill_timestamp=datetime.now(UTC).timestamp(),
            tags=tags_of(requester),
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset.from_asset_partition_set(wanted, graph),
            title=f"{len(part)} past files" + (f", part {number} of {len(parts)}" if len(parts) > 1 else ""),
            description="Files on disk that the catalogue did not hold.",
            run_config=None,
        )
        instance.add_backfill(backfill)
        ids.append(backfill.backfill_id)
    return ids


def _with_unfinished_runs(instance: dg.DagsterInstance) -> set[str]:
    unfinished = dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)
    found: set[str] = set()
    ranges: list[tuple[str, str]] = []
    cursor = None
    while True:
        page = instance.get_runs(unfinished, limit=_PAGE, cursor=cursor)
        found.update(run.tags[PARTITION_TAG] for run in page if PARTITION_TAG in run.tags)
        ranges += [(run.tags[RANGE_START_TAG], run.tags[RANGE_END_TAG]) for run in page if _is_of_many(run)]
        if len(page) < _PAGE:
            return found | _within(instance, ranges)
        cursor = page[-1].run_id


def _is_of_many(run: dg.DagsterRun) -> bool:
    return RANGE_START_TAG in run.tags and RANGE_END_TAG in run.tags


def _within(instance: dg.DagsterInstance, ranges: Sequence[tuple[str, str]]) -> set[str]:
    """The files between the ends of these ranges, in the order in which Dagster has them."""
    if not ranges:
        return set()
    keys = list(instance.get_dynamic_partitions(nexus_files.name or ""))
    places = {key: place for place, key in enumerate(keys)}
    found: set[str] = set()
    for start, end in ranges:
        found.update(keys[places.get(start, 0) : places.get(end, len(keys) - 1) + 1])
    return found


def _in_backfills(instance: dg.DagsterInstance) -> set[str]:
    """The files for which a backfill has not yet started a run, or not yet seen the end of it."""
    graph = AssetGraph.from_assets([raw_dataset])
    found: set[str] = set()
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        if RAW_DATASET in (backfill.asset_selection or ()):
            data = backfill.get_asset_backfill_data(graph)
            left = data.target_subset - (data.materialized_subset | data.failed_and_downstream_subset)
            found.update(
                partition.partition_key
                for partition in left.iterate_asset_partitions()
                if partition.asset_key == RAW_DATASET and partition.partition_key is not None
            )
    return found


# Requests


class Position(BaseModel):
    """How far the requests were turned into runs: the cursor of the sensor."""

    model_config = ConfigDict(frozen=True)

    event: int = 0
    """The storage id of an observation."""
    files: int = 0
    """How many of its files are done."""

    @classmethod
    def parse(cls, cursor: str | None) -> "Position":
        """The position that a cursor holds; the beginning where there is none."""
        return cls.model_validate_json(cursor) if cursor else cls()


@dataclass(frozen=True)
class RequestedFile:
    """A file that somebody requested; ``after`` is the position behind it."""

    path: str
    requester: str
    after: Position

    @property
    def run_key(self) -> str:
        """Another one for each request, so that a file can be requested again some day."""
        return f"{self.after.event}:{self.after.files}"


def request_events(paths: Sequence[str], requester: str) -> Iterator[dg.AssetObservation]:
    """The observations that request runs for files."""
    for part in _parts(paths, _FILES_IN_AN_OBSERVATION):
        yield dg.AssetObservation(
            RECONCILIATION,
            description=f"{len(part)} files requested by {requester}",
            metadata={"files": dg.MetadataValue.json(part), "requested by": requester},
        )


def requested_files(instance: dg.DagsterInstance, position: Position) -> Iterator[RequestedFile]:
    """What was requested behind a position, in order."""
    after = position.event - 1
    while True:
        wanted = dg.AssetRecordsFilter(RECONCILIATION, after_storage_id=after)
        page = instance.fetch_observations(wanted, limit=10, ascending=True)
        for record in page.records:
            after = record.storage_id
            event = record.asset_observation
            done = position.files if after == position.event else 0
            yield from _files_of(event, after, done) if event else ()
        if not page.has_more:
            return


def _files_of(event: dg.AssetObservation, storage_id: int, done: int) -> Iterator[RequestedFile]:
    if "files" not in event.metadata:
        return
    paths: Any = event.metadata["files"].value
    requester = str(event.metadata["requested by"].value)
    for number, path in enumerate(paths[done:], done + 1):
        yield RequestedFile(path, requester, Position(event=storage_id, files=number))


def _position(instance: dg.DagsterInstance) -> Position:
    """Where the sensor is; the beginning before its first tick, and where no sensors can be."""
    if instance.schedule_storage is None:
        return Position()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        if state.instigator_name == RECONCILE_SENSOR:
            data = state.instigator_data
            return Position.parse(data.cursor if isinstance(data, SensorInstigatorData) else None)
    return Position()


@dg.sensor(
    name=RECONCILE_SENSOR,
    job=ingest_file,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    tags=PAST_FILES,
    description="Turns the files that `reconciliation` and `scicat-dagster discover --run` request into "
    f"runs, at most {MOST_UNFINISHED} at a time and after all live files. Its cursor is the last request "
    "that is done.",
)
def reconcile_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    unfinished = dg.RunsFilter(
        statuses=NOT_FINISHED_STATUSES, tags={REQUESTED_BY_TAG: ["reconcile", "discover"]}
    )
    room = MOST_UNFINISHED - context.instance.get_runs_count(unfinished)
    if room <= 0:
        return dg.SkipReason(f"{MOST_UNFINISHED} requested files have runs that are not finished.")
    position = Position.parse(context.cursor)
    chosen: dict[str, RequestedFile] = {}
    in_flight: set[str] | None = None
    for file in requested_files(context.instance, position):
        if len(chosen) == room:
            break
        if in_flight is None:
            in_flight = _with_unfinished_runs(context.instance)
        position = file.after
        if file.path not in in_flight:
            chosen.setdefault(file.path, file)
    if not chosen:
        return dg.SensorResult(skip_reason="Nothing more is requested.", cursor=position.model_dump_json())
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(run_key=file.run_key, partition_key=file.path, tags=tags_of(file.requester))
            for file in chosen.values()
        ],
        dynamic_partitions_requests=[nexus_files.build_add_request(list(chosen))],
        cursor=position.model_dump_json(),
    )


# The sweep


@dataclass(frozen=True)
class Plan:
    """What a sweep does about the files that the catalogue does not hold."""

    in_flight: Sequence[str]
    """Left out, because a run is under way or will be."""
    failed: Sequence[str]
    """Left out, because a person or `retry_later_sensor` looks after them."""
    wanted: Sequence[str]


def plan_sweep(missing: Iterable[str], in_flight: set[str], failed: set[str]) -> Plan:
    """Sort out which missing files need a run. What is in flight has not failed, whatever came before."""
    flying: list[str] = []
    left: list[str] = []
    wanted: list[str] = []
    for path in missing:
        (flying if path in in_flight else left if path in failed else wanted).append(path)
    return Plan(flying, left, wanted)


def roots_of(settings: Settings) -> Sequence[str]:
    """The folders that are searched when nobody names any.

    Raises
    ------
    PermanentError
        The configuration names none, either.
    """
    data_directory = settings.ingestion.file_handling.data_directory
    roots = settings.reconcile.roots or ((data_directory,) if data_directory else ())
    if not roots:
        raise PermanentError(
            "Nobody says where the facility's files are.",
            remedy="Set reconcile.roots or ingestion.file_handling.data_directory in the configuration.",
        )
    return roots


def sweep_criteria(settings: ReconcileSettings, now: datetime) -> Criteria:
    """Which files a sweep looks at."""
    since = now - timedelta(days=settings.since_days) if settings.since_days else None
    return Criteria(since=since, until=now - SETTLED_AFTER)


@dg.asset(
    group_name=GROUP,
    kinds={"table", "scicat"},
    owners=OWNERS,
    tags=PAST_FILES,
    description="What lies on disk, and which of it is in the catalogue. Each materialization is a sweep of "
    "the folders in the configuration's `reconcile` section; it requests runs for the files that are neither "
    "registered nor in flight nor failed. Requests are observations of this asset, and `reconcile_sensor` "
    "turns them into runs.",
)
def reconciliation(
    context: dg.AssetExecutionContext, facility: dg.ResourceParam[Facility]
) -> dg.MaterializeResult[None]:
    instance = context.instance
    instance.add_run_tags(context.run.run_id, _LONGEST_SWEEP)
    settings = facility.settings
    with explained(context.op_execution_context, facility.op_pauses):
        entries = walk(
            roots_of(settings),
            sweep_criteria(settings.reconcile, datetime.now(UTC)),
            settings.ingestion.file_handling,
        )
        found = discover(entries, facility.catalogue, known_pids=lambda paths: known_pids(instance, paths))
    plan = plan_sweep(
        [file.path for file in found.of("missing")],
        files_in_flight(instance),
        {file.path for file in failed_files(instance)},
    )
    # A dry run registers nothing, so that the same files would be requested again each night.
    requested = () if settings.ingestion.dry_run else plan.wanted
    for event in request_events(requested, "reconcile"):
        context.log_event(event)
    return dg.MaterializeResult(
        metadata={
            **_found_metadata(found),
            "in flight": len(plan.in_flight),
            "failed": len(plan.failed),
            "requested": len(requested),
            "table": _sweep_table(found, plan, requested),
        }
    )


reconcile_files = dg.define_asset_job(
    "reconcile_files",
    selection=dg.AssetSelection.assets(reconciliation),
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=PAST_FILES,
    run_tags={},
    description="Sweep the folders of the `reconcile` section for files that the catalogue does not hold.",
)


def reconcile_schedule(settings: ReconcileSettings) -> dg.ScheduleDefinition:
    """The schedule of the sweep; off until somebody turns it on, because it may find years of files."""
    return dg.ScheduleDefinition(
        name="reconcile",
        job=reconcile_files,
        cron_schedule=settings.cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        owners=OWNERS,
        tags=PAST_FILES,
        description="The sweep for files that no announcement has brought into the catalogue. Turn it on "
        "when its first materialization shows what you expect.",
    )


# The launchpad


class DiscoverConfig(dg.Config):
    """Where to look for files, and which ones count."""

    roots: list[str] = Field(
        default=[], description="Absolute folders; empty: those that the nightly sweep looks at."
    )
    since: str = Field(default="", description="Modified at this time or later, such as 2026-01-31.")
    until: str = Field(default="", description="Modified before this time, such as 2026-02-28T12:00.")
    instrument: list[str] = Field(
        default=[], description="Only files with a folder of this name on their way; empty: all."
    )
    glob: list[str] = Field(default=list(DEFAULT_PATTERNS), description="Patterns of file names.")

    def criteria(self) -> Criteria:
        """The same for the domain.

        Raises
        ------
        PermanentError
            A time cannot be read.
        """
        return Criteria(
            patterns=self.glob,
            since=_time(self.since),
            until=_time(self.until),
            instruments=self.instrument,
        )


@dg.op(
    out=dg.Out(dg.Nothing),
    tags=kinds("scicat"),
    description="Walk folders, ask the catalogue which files it holds, and add partitions for the others.",
)
def find_missing_files(
    context: dg.OpExecutionContext, facility: dg.ResourceParam[Facility], config: DiscoverConfig
) -> None:
    instance = context.instance
    instance.add_run_tags(context.run_id, _LONGEST_SWEEP)
    with explained(context, facility.op_pauses):
        roots = config.roots or roots_of(facility.settings)
        entries = walk(roots, config.criteria(), facility.settings.ingestion.file_handling)
        found = discover(entries, facility.catalogue, known_pids=lambda paths: known_pids(instance, paths))
    missing = [file.path for file in found.of("missing")]
    add_partitions(instance, missing)
    plan = plan_sweep(missing, files_in_flight(instance), set())
    what_next = (
        f"{len(plan.wanted)} files are not in the catalogue and have no run under way. To register them, "
        "open Catalog → raw_dataset → Partitions → Materialize, choose the missing partitions only, and give "
        f"the tag {PRIORITY_TAG}: -1, so that live files go first."
    )
    context.log.info(what_next)
    context.add_output_metadata(
        {
            **_found_metadata(found),
            "in flight": len(plan.in_flight),
            "what next": what_next,
            "table": _sweep_table(found, plan, ()),
            "missing files": _files_table(plan.wanted),
        }
    )


@dg.job(
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=PAST_FILES,
    run_tags={},
    description="Find files on disk that the catalogue does not hold, and add a partition for each, so that "
    "they can be registered from the partitions page of `raw_dataset`. Registers nothing itself.",
)
def discover_files() -> None:
    find_missing_files()


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        # A time without an offset is this machine's.
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise PermanentError(
            f"{text!r} is no time.", remedy="Write it like 2026-01-31 or 2026-01-31T12:00."
        ) from None


# What people see


def _found_metadata(found: Discovery) -> dict[str, Any]:
    changed = [file.path for file in found.of("changed")]
    shown: dict[str, Any] = {
        "on disk": len(found.files),
        "registered": len(found.of("registered")),
        "changed": len(changed),
        "missing": len(found.of("missing")),
        "unreadable": len(found.unreadable),
        "left out": len(found.refused),
    }
    if changed:
        shown["files that changed since they were registered"] = _files_table(changed)
    if found.unreadable:
        shown["what could not be read"] = _places_table(found.unreadable)
    if found.refused:
        shown["what was left out"] = _places_table(found.refused)
    return shown


def _sweep_table(found: Discovery, plan: Plan, requested: Sequence[str]) -> dg.TableMetadataValue:
    instruments = {file.path: (file.root, file.instrument) for file in found.files}

    def per_instrument(paths: Iterable[str]) -> Counter[tuple[str, str]]:
        return Counter(instruments[path] for path in paths)

    flying, failed, wanted = map(per_instrument, (plan.in_flight, plan.failed, requested))
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "root": count.root,
                    "instrument": count.instrument,
                    "on disk": count.on_disk,
                    "registered": count.registered,
                    "changed": count.changed,
                    "missing": count.missing,
                    "in flight": flying[count.root, count.instrument],
                    "failed": failed[count.root, count.instrument],
                    "requested": wanted[count.root, count.instrument],
                }
            )
            for count in found.counts()[:_MOST_ROWS]
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("root", "string"),
                dg.TableColumn("instrument", "string"),
                *(
                    dg.TableColumn(name, "int")
                    for name in (
                        "on disk", "registered", "changed", "missing", "in flight", "failed", "requested",
                    )
                ),
            ]
        ),
    )  # fmt: skip


def _files_table(paths: Sequence[str]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"file": path}) for path in paths[:_MOST_ROWS]],
        schema=dg.TableSchema([dg.TableColumn("file", "string")]),
    )


def _places_table(places: Sequence[LeftOut]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"place": place.path, "why": place.reason}) for place in places[:_MOST_ROWS]],
        schema=dg.TableSchema([dg.TableColumn("place", "string"), dg.TableColumn("why", "string")]),
    )


def _parts(items: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
