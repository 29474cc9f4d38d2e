"""Is Kafka read as it should be? The asset checks of ``kafka_lag``, which the sensor evaluates as it reads.

Reading is :mod:`scicat_dagster.kafka`'s, and reporting the lag the sensor's.
"""

import time
from collections.abc import Iterator, Mapping

import dagster as dg

from scicat_dagster.dagster_internals import AssetCheckExecutionRecordStatus
from scicat_dagster.diagnostics.report import Report
from scicat_dagster.diagnostics.servers import check_kafka
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.tags import KAFKA_LAG

TOPICS_READABLE = "topics_readable"
LAG_SHRINKS = "lag_shrinks"

_SAID_AGAIN_SECONDS = 600.0

_QUESTIONS = {
    TOPICS_READABLE: "Every topic of the configuration can be read: the brokers let us, and each partition "
    "has a leader. The other topics are read in any case.",
    LAG_SHRINKS: "Messages that wait are read: within ten minutes their number gets smaller.",
}


def evaluations(
    facility: Facility, unreadable: Mapping[str, str], lag: Mapping[str, int]
) -> Iterator[dg.AssetCheckEvaluation]:
    """What a poll says of both questions, if that is news or was not said for a while."""
    now = time.monotonic()
    stuck = facility.lag_watch.stuck(lag, now)
    for name, found in (
        (TOPICS_READABLE, dict(unreadable)),
        (LAG_SHRINKS, {topic: f"{count} messages wait." for topic, count in stuck.items()}),
    ):
        said, at = facility.said_of_kafka.get(name, (None, -_SAID_AGAIN_SECONDS))
        if found.keys() == said and now - at < _SAID_AGAIN_SECONDS:
            continue
        facility.said_of_kafka[name] = (set(found), now)
        yield dg.AssetCheckEvaluation(
            asset_key=facility.names.key(KAFKA_LAG),
            check_name=name,
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR,
            description=_words(found),
            metadata={topic: dg.MetadataValue.text(why) for topic, why in found.items()},
        )


def kafka_topics(names: Names) -> dg.AssetChecksDefinition:
    """Both checks, executed by hand."""

    @dg.multi_asset_check(
        name=names.name("kafka_topics"),
        specs=[
            dg.AssetCheckSpec(name, asset=names.key(KAFKA_LAG), description=text)
            for name, text in _QUESTIONS.items()
        ],
        required_resource_keys={names.facility},
        can_subset=True,
        description="Asks the brokers for the topics, and repeats what the sensor said of the lag. The "
        "sensor evaluates both as it reads.",
    )
    def kafka_topics(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        facility = facility_in(context, names)
        selected = {key.name for key in context.selected_asset_check_keys}
        if TOPICS_READABLE in selected:
            report = Report(config="")
            check_kafka(facility.settings.kafka, report)
            failing = [check.what for check in report.checks if check.result != "ok"]
            yield dg.AssetCheckResult(
                check_name=TOPICS_READABLE, passed=not failing, description=" ".join(failing)
            )
        if LAG_SHRINKS in selected:
            stuck = failing_checks(context.instance, names)
            yield dg.AssetCheckResult(
                check_name=LAG_SHRINKS,
                passed=LAG_SHRINKS not in stuck,
                description=stuck.get(LAG_SHRINKS, ""),
            )

    return kafka_topics


def failing_checks(instance: dg.DagsterInstance, names: Names = UNPREFIXED) -> dict[str, str]:
    """Those of the two that failed when they were evaluated last, each with what was found."""
    found: dict[str, str] = {}
    for name in (TOPICS_READABLE, LAG_SHRINKS):
        key = dg.AssetCheckKey(names.key(KAFKA_LAG), name)
        record = instance.get_latest_asset_check_evaluation_record(key)
        if record is not None and record.status is AssetCheckExecutionRecordStatus.FAILED:
            event = record.event.dagster_event if record.event is not None else None
            evaluation = event.asset_check_evaluation_data if event is not None else None
            found[name] = (evaluation.description if evaluation is not None else None) or name
    return found


def _words(found: Mapping[str, str]) -> str:
    return "; ".join(f"{topic}: {why}" for topic, why in found.items()) or "All topics are well."
