"""Announcements that came by ``POST /announce``: where they are stored, and the sensor that requests runs.

Each is an observation of the asset ``announcements`` in Dagster's database, which holds it before its sender
gets an answer. The runs are those that a message leads to, in no topic.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import ValidationError

from scicat_dagster.config.models import HealthCheckSettings
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.ingest.jobs import config_of, has_run, ingest_file
from scicat_dagster.orchestration.integration.progress import Progress
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.operations.health import Home
from scicat_dagster.orchestration.partitions import add_requests, key_of
from scicat_dagster.orchestration.tags import (
    ANNOUNCEMENTS,
    INGESTION,
    JOB_TAG,
    OWNERS,
    POSTED,
    POSTED_ANNOUNCEMENT,
    REQUESTED_BY_TAG,
    file_tags,
    instrument_tags,
)

MOST_FILES_PER_TICK = 200


def store(home: Home, written: FileWritten, data_directory: str, names: Names = UNPREFIXED) -> str:
    """Store an announcement; its partition key, when the database has it.

    Raises
    ------
    PermanentError
        It cannot be stored without a loss.
    TransientError
        The database does not take it now.
    """
    text = written.model_dump_json()
    if FileWritten.model_validate_json(text) != written:
        raise PermanentError("metadata: It would be read back as something else.", remedy="Simplify it.")
    key = key_of(written.file_path, data_directory)
    event = dg.AssetObservation(
        names.key(ANNOUNCEMENTS), description=f"{key} was posted.", metadata={POSTED_ANNOUNCEMENT: text}
    )
    try:
        home.instance().report_runless_asset_event(event)
    except IngestionError:
        raise
    except Exception as error:  # noqa: BLE001 - a database that is away may raise anything
        # The words of a database may hold its address with a password.
        raise TransientError(
            f"The announcement cannot be stored: {type(error).__name__}.",
            remedy="Send it again in a minute; see that Dagster's database answers.",
        ) from None
    return key


def posted_announcements_sensor(settings: HealthCheckSettings, names: Names) -> dg.SensorDefinition:
    """The sensor. It looks seldom where nobody can post: what was stored before must not lie there."""
    can_be_posted = bool(settings.announce_token.get_secret_value())

    @dg.sensor(
        name=names.name("posted_announcements_sensor"),
        job=ingest_file(names),
        required_resource_keys={names.facility},
        minimum_interval_seconds=5 if can_be_posted else 300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=OWNERS,
        tags=INGESTION,
        description="Requests one run of ingest_file for each file that was announced by `POST /announce`; "
        "none where its job has a run already, because Kafka has announced it as well.",
    )
    def sensor(context: dg.SensorEvaluationContext, **_: Any) -> dg.SensorResult:
        facility = facility_in(context, names)
        data_directory = facility.settings.ingestion.file_handling.data_directory
        before = Progress.parse(context.cursor)
        fetch = context.instance.fetch_observations
        behind, records = before.seen(names.key(ANNOUNCEMENTS), fetch, MOST_FILES_PER_TICK)
        # The last one for each file, as of several messages.
        latest = {
            key_of(written.file_path, data_directory): (record.storage_id, written)
            for record in records
            if (written := _announced(context, record)) is not None
        }
        requests = [
            _run_request(key, storage_id, written, names)
            for key, (storage_id, written) in latest.items()
            if not has_run(context.instance, key, written.job_id, names)
        ]
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=add_requests(
                [str(request.partition_key) for request in requests], names
            ),
            cursor=before.after(behind, [record.storage_id for record in records]).model_dump_json(),
            skip_reason=None if requests else f"{len(records)} files were announced, none of them news.",
        )

    return sensor


def _announced(context: dg.SensorEvaluationContext, record: dg.EventLogRecord) -> FileWritten | None:
    event = record.asset_observation
    if event is None or POSTED_ANNOUNCEMENT not in event.metadata:
        return None
    try:
        return FileWritten.model_validate_json(str(event.metadata[POSTED_ANNOUNCEMENT].value))
    except ValidationError:
        context.log.warning("The observation %s of announcements is none of ours.", record.storage_id)
        return None


def _run_request(key: str, storage_id: int, written: FileWritten, names: Names) -> dg.RunRequest:
    return dg.RunRequest(
        # Dagster never requests a key twice, so that a tick that is repeated is harmless.
        run_key=f"posted:{storage_id}",
        partition_key=key,
        run_config=config_of(names, announcement=written.model_dump_json()),
        tags={
            JOB_TAG: written.job_id,
            REQUESTED_BY_TAG: names.name(POSTED),
            **file_tags(key),
            **instrument_tags(written.instrument),
        },
    )
