"""The sensor that sends the digest of what needs manual intervention to the configured channels.

What is news is ``news``' business, the message and its channels :mod:`scicat_dagster.notifications`'.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import dagster as dg

from scicat_dagster.config.models import NotificationSettings
from scicat_dagster.diagnostics.checkup import Checkup
from scicat_dagster.errors import IngestionError, without_file
from scicat_dagster.notifications.channels import channels
from scicat_dagster.notifications.message import Condition, Digest, FailedEntry, digest
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.failures.failed_files import FailedFile, failed_files, problem_of
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.operations.health import Home, dagster_checks
from scicat_dagster.orchestration.operations.news import DigestCursor, News, Told, news
from scicat_dagster.orchestration.partitions import is_ours
from scicat_dagster.orchestration.past_files.in_flight import files_in_flight
from scicat_dagster.orchestration.run_starts.unended import reported_unended
from scicat_dagster.orchestration.tags import (
    AUTO_RETRY_RUN_TAG,
    OVERSIGHT,
    OWNERS,
    PARTITION_TAG,
    REJECTED_MESSAGES,
    WILL_RETRY_TAG,
)
from scicat_dagster.usecases.unended_runs import UnendedRun

MOST_LOOKED_UP = 200
"""New files whose reasons are read for one message: a tick has a minute."""

MOST_UNENDED = 20
"""Runs in one message that never ended; where there are more, the asset check names all."""

_PROMISE = timedelta(hours=1)

_MOST_REJECTED = 1000


@dataclass(frozen=True)
class Around:
    """What there is to tell beside failed files."""

    conditions: tuple[Condition, ...]
    rejected: int
    """Messages that led to no file since the channel was told."""
    last_rejected: int
    """The storage id of the last of them."""

    def is_due(self, told: Told) -> bool:
        """Whether a channel that was told this before has to be told something."""
        return self.rejected > 0 or {each.name for each in self.conditions} != told.conditions

    def told(self, told: Told) -> Told:
        """What is to be stored when it was sent."""
        names = frozenset(each.name for each in self.conditions)
        return told.model_copy(update={"conditions": names, "rejected": self.last_rejected})


def not_well(facility: Facility, instance: dg.DagsterInstance) -> tuple[Condition, ...]:
    """What ``health`` would say of Dagster, as far as a sensor that ticks can be told by it.

    What follows of something else that is not well is not told beside it.

    Kafka, the storage and SciCat are ``today_sensor``'s, which does not wait for the next digest.
    """
    checks = dagster_checks(Home(lambda: instance), facility.current, facility.names)
    failing = {check.name: check for check in Checkup(checks).look().checks if not check.ok}
    return (
        *(
            Condition(name=check.name, what=check.words, what_to_do=check.remedy)
            for check in failing.values()
            if check.cause not in failing
        ),
        *unended_conditions(reported_unended(instance, facility.names)),
    )


def unended_conditions(found: Sequence[UnendedRun]) -> Iterator[Condition]:
    """What people are told of runs that never ended, each once: what is news is known by its name."""
    for each in found[:MOST_UNENDED]:
        name = f"run of {PurePosixPath(each.run.file).name}"
        what = f"It started and never ended ({each.run.file}). On disk: {each.where}."
        yield Condition(name=name, what=what, what_to_do=each.remedy, since=each.run.started)


def _around(
    instance: dg.DagsterInstance, conditions: tuple[Condition, ...], told: Told, names: Names
) -> Around:
    if told.rejected is None:
        # What was rejected before anybody was to be told is in the list of messages.
        latest = instance.fetch_observations(names.key(REJECTED_MESSAGES), limit=1).records
        return Around(conditions, 0, latest[0].storage_id if latest else 0)
    wanted = dg.AssetRecordsFilter(names.key(REJECTED_MESSAGES), after_storage_id=told.rejected)
    records = instance.fetch_observations(wanted, limit=_MOST_REJECTED, ascending=True).records
    return Around(conditions, len(records), records[-1].storage_id if records else told.rejected)


def digest_sensor(
    settings: NotificationSettings,
    names: Names,
    look: Callable[[Facility, dg.DagsterInstance], tuple[Condition, ...]] = not_well,
) -> dg.SensorDefinition:
    """The sensor; on from the start where the configuration says whom to tell.

    ``look`` says what is not well.
    """
    is_wanted = bool(channels(settings))

    @dg.sensor(
        name=names.name("failure_digest_sensor"),
        required_resource_keys={names.facility},
        minimum_interval_seconds=60 * settings.every_minutes,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted else dg.DefaultSensorStatus.STOPPED,
        owners=OWNERS,
        tags=OVERSIGHT,
        description="Reports to the channels of the section `notifications` what needs manual intervention, "
        "in one message: files that failed and that are repaired, messages that led to no file, runs that "
        "never ended, daemons and sensors that fail. Files that are retried are reported after an hour; "
        "servers that are away are reported by `today_sensor`, at once.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult | dg.SkipReason:
        facility = facility_in(context, names)
        configured = channels(facility.settings.notifications)
        if not configured:
            return dg.SkipReason("The configuration names no channel in the section notifications.")
        now = datetime.now(UTC)
        before = DigestCursor.parse(context.cursor)
        # Before and after, because files go from one of these to the other while they are read.
        under_way = _under_way(context.instance, now, names)
        failed = failed_files(context.instance, now, names)
        under_way |= _under_way(context.instance, now, names)
        conditions = look(facility, context.instance)
        after: dict[str, Told] = {}
        said: list[str] = []
        failures: list[IngestionError] = []
        for channel in configured:
            told = before.channels.get(channel.name, Told())
            found = news(failed, under_way, told, now)
            around = _around(context.instance, conditions, told, names)
            kept = {"conditions": told.conditions, "rejected": told.rejected}
            if told.rejected is None:
                kept["rejected"] = around.last_rejected
            after[channel.name] = found.if_not.model_copy(update=kept)
            if not (found.is_due or around.is_due(told)):
                continue
            pages = facility.settings.notifications.dagster_url
            message = _digest(context.instance, facility.settings.id, found, pages).model_copy(
                update={
                    "dagster_url": pages,
                    "conditions": tuple(each for each in conditions if each.name not in told.conditions),
                    "well_again": tuple(sorted(told.conditions - {each.name for each in conditions})),
                    "rejected": around.rejected,
                }
            )
            try:
                channel.send(message)
            except IngestionError as error:
                failures.append(error)
                said.append(f"{channel.name} was not told: {error}")
            else:
                after[channel.name] = around.told(found.if_told)
                said.append(f"{channel.name} was told: {message.subject}")
        for failure in failures:
            context.log.error(str(failure))
        if failures and len(failures) == len(said):
            # Nobody was told, so that the tick may fail for all to see.
            raise failures[0]
        return dg.SensorResult(
            skip_reason="; ".join(said) or f"{len(failed)} failed files, none of them news.",
            cursor=DigestCursor(channels=after).model_dump_json(),
        )

    return sensor


def _digest(instance: dg.DagsterInstance, facility: str, found: News, pages: str) -> Digest:
    return digest(
        facility,
        [_entry(instance, file, pages) for file in found.new[:MOST_LOOKED_UP]],
        more=max(0, len(found.new) - MOST_LOOKED_UP),
        still_failed=found.still_failed,
        repaired=found.repaired,
    )


def _entry(instance: dg.DagsterInstance, file: FailedFile, pages: str) -> FailedEntry:
    problem = problem_of(instance, file)
    return FailedEntry(
        file=file.path,
        since=file.since,
        kind=file.kind,
        # The file is named once, above them.
        reason=without_file(problem.what, file.file),
        what_to_do=without_file(problem.remedy, file.file),
        runs=file.runs,
        run_url=f"{pages}/runs/{file.run_id}" if pages else "",
    )


def _under_way(instance: dg.DagsterInstance, now: datetime, names: Names) -> set[str]:
    """Files that are worked on or will be, also those that Dagster has promised to retry right away."""
    runs = instance.get_runs(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE],
            tags={WILL_RETRY_TAG: "true"},
            updated_after=now - _PROMISE,
        )
    )
    return files_in_flight(instance, names) | {
        run.tags[PARTITION_TAG]
        for run in runs
        if PARTITION_TAG in run.tags and AUTO_RETRY_RUN_TAG not in run.tags and is_ours(run, names)
    }
