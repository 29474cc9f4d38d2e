"""The sensor that polls Kafka for announcements and requests one run per file.

The rule is :func:`scicat_dagster.orchestration.ingest.tick.plan_tick`; the sensor polls, asks it, and wraps
the answer. See https://docs.dagster.io/guides/automate/sensors.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from scicat_dagster.config.models import KafkaSettings, Settings
from scicat_dagster.errors import IngestionError
from scicat_dagster.kafka.batch import Batch
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import PL72, WRDN, FileWritten, Rejected
from scicat_dagster.kafka.producer import send
from scicat_dagster.orchestration.configuration_versions import changes
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.ingest.assets import LAG_INTERVAL
from scicat_dagster.orchestration.ingest.jobs import ingest_file, posted_lately
from scicat_dagster.orchestration.ingest.kafka_checks import evaluations as kafka_evaluations
from scicat_dagster.orchestration.ingest.rejected_messages import (
    gap_as_text,
    gap_event,
    rejected_event,
    superseded_event,
)
from scicat_dagster.orchestration.ingest.tick import TickPlan, plan_tick
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import add_requests
from scicat_dagster.orchestration.run_starts.jobs import make_sample
from scicat_dagster.orchestration.run_starts.open_runs import follow
from scicat_dagster.orchestration.tags import INGESTION, JOB_TAG, KAFKA_LAG, LAG_BY_TOPIC, OWNERS, WRDN_SENSOR
from scicat_dagster.wording import numbered

MOST_MESSAGES_PER_TICK = 1000
"""Bounds the partition keys of one request, each of which Dagster looks up (some 2 ms with SQLite)."""

_CHANGED_LAG_INTERVAL = timedelta(seconds=30)


def wrdn_sensor(names: Names) -> dg.SensorDefinition:
    """The sensor."""

    @dg.sensor(
        name=names.name(WRDN_SENSOR),
        jobs=[ingest_file(names), make_sample(names)],
        required_resource_keys={names.facility},
        # The least that Dagster knows, as nobody polls between two ticks; it takes 0 for 30.
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=INGESTION,
        description="Reads wrdn messages from Kafka and requests one run of ingest_file per written file; "
        "where the configuration wants samples, one of make_sample per run start (pl72), too. Its cursor is "
        "the position in each topic and partition; runs are identified by topic, partition, offset and the "
        "topic's id, so that a tick which is repeated requests nothing twice.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult | dg.SkipReason:
        facility = facility_in(context, names)
        if not facility.settings.kafka.topics:
            return dg.SensorResult(
                asset_events=list(changes(facility)), skip_reason="The configuration names no Kafka topics."
            )
        facility.caught_up.begin(context.cursor)
        batch = facility.announcements.read(
            Cursor.parse(context.cursor), most=MOST_MESSAGES_PER_TICK, wait_seconds=facility.wait_seconds
        )
        handling = facility.settings.ingestion.file_handling
        schemas = _schemas(facility.settings)
        plan = plan_tick(batch.messages, batch.cursor, handling.data_directory, schemas=schemas, names=names)
        if not facility.settings.ingestion.samples:
            plan.samples.clear()
        batch = batch.first(plan.taken)
        summary = _summary(batch, plan)
        if batch.messages or batch.gaps or batch.begun_at:
            context.log.info(summary)
        try:
            _send_dead_letters(facility.settings.kafka, plan.rejected)
        except IngestionError as error:
            # They are kept in Dagster all the same; a tick that fails would read the same messages again.
            context.log.warning("The dead letters were not sent. %s", error)
        if PL72 in schemas:
            follow(context.instance, plan.started, plan.ended, datetime.now(UTC), names)
        cursor = batch.cursor.model_dump_json()
        facility.caught_up.end(cursor, batch.lag(), time.monotonic())
        # Samples first: the run of a file that was announced in the same batch looks for its own.
        requests = [*plan.samples.values(), *_news(context, facility, plan)]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=add_requests(
                [str(request.partition_key) for request in requests], names
            ),
            asset_events=[
                *(rejected_event(rejected, names) for rejected in plan.rejected),
                *(
                    superseded_event(written, names)
                    for written in plan.superseded
                    if _is_of_another_job(written, plan)
                ),
                *(gap_event(gap, names) for gap in batch.gaps),
                *_lag_events(facility, batch.lag()),
                *kafka_evaluations(facility, batch.unreadable, batch.lag()),
                *changes(facility),
            ],
            cursor=cursor,
            skip_reason=None if requests else summary,
        )

    return sensor


def _news(context: dg.SensorEvaluationContext, facility: Facility, plan: TickPlan) -> Sequence[dg.RunRequest]:
    """The requests for files that nobody has announced by ``POST /announce`` as well."""
    requests = list(plan.requests.values())
    if not (requests and facility.settings.health_check.announce_token.get_secret_value()):
        return requests
    posted = posted_lately(context.instance, facility.names)
    news = [each for each in requests if (str(each.partition_key), each.tags[JOB_TAG]) not in posted]
    if len(news) < len(requests):
        context.log.info("%s of the files were announced by POST before.", len(requests) - len(news))
    return news


def _schemas(settings: Settings) -> tuple[str, ...]:
    """What is read of the messages."""
    return (WRDN, PL72) if settings.reads_run_starts else (WRDN,)


def _send_dead_letters(settings: KafkaSettings, rejected: Sequence[Rejected]) -> None:
    if settings.dead_letter_topic and rejected:
        send(settings, settings.dead_letter_topic, [message.value for message in rejected])


def _summary(batch: Batch, plan: TickPlan) -> str:
    parts = [
        f"{numbered(len(batch.messages), 'message')}, {numbered(len(plan.requests), 'file')} to register"
    ]
    if plan.started:
        parts.append(
            f"{numbered(len(plan.started), 'run')} started, {numbered(len(plan.samples), 'sample')} to make"
        )
    if plan.rejected:
        parts.append(f"{len(plan.rejected)} rejected (see the asset rejected_messages)")
    parts += [
        f"{later.position} repeats {later.file_path}: only the last message of a tick counts"
        for later in plan.superseded
    ]
    if plan.ignored:
        foreign = ", ".join(f"{count} {schema}" for schema, count in sorted(plan.ignored.items()))
        parts.append(f"foreign: {foreign}")
    parts += [f"topic {topic} does not exist yet" for topic in batch.missing_topics]
    parts += [f"topic {topic} cannot be read: {why}" for topic, why in batch.unreadable.items()]
    parts += [f"{place} begins at {where}" for place, where in batch.begun_at.items()]
    parts += [gap_as_text(gap) for gap in batch.gaps]
    return "; ".join(parts)


def _is_of_another_job(superseded: FileWritten, plan: TickPlan) -> bool:
    """Whether it is more than the same message once more, as a producer that tries again sends it."""
    return plan.requests[superseded.file_path].tags[JOB_TAG] != superseded.job_id


def _lag_events(facility: Facility, lag: dict[str, int]) -> list[dg.AssetMaterialization]:
    """The lag, if it is time to say it: few events while nothing happens, enough of them to plot a burst."""
    now = time.monotonic()
    interval = LAG_INTERVAL if lag == facility.reported_lag else _CHANGED_LAG_INTERVAL
    if now - facility.lag_reported_at < interval.total_seconds():
        return []
    facility.lag_reported_at, facility.reported_lag = now, lag
    topics = {f"messages waiting in {topic}": dg.MetadataValue.int(count) for topic, count in lag.items()}
    total = {"messages waiting": dg.MetadataValue.int(sum(lag.values()))}
    by_topic = {LAG_BY_TOPIC: dg.MetadataValue.json(lag)}
    return [dg.AssetMaterialization(facility.names.key(KAFKA_LAG), metadata={**total, **topics, **by_topic})]
