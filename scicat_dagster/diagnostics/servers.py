"""What the servers and folders that a configuration names are like now. Nothing is written, anywhere.

A server that does not answer is not a mistake of the configuration, as far as anybody can tell: it is
reported as not checked.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from urllib.parse import quote

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from scicat_dagster.config.models import FileHandlingSettings, KafkaSettings, Settings
from scicat_dagster.diagnostics.report import Report, Result
from scicat_dagster.errors import IngestionError, PermanentError
from scicat_dagster.files.sidecars import sidecar_directory
from scicat_dagster.kafka.client import PROBE_SECONDS, BrokerAwayError, client_configuration, unusable
from scicat_dagster.patience import SilentStorageError, answered
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import Schema, ValueVariable
from scicat_dagster.schemas.rendering import Value, references, render
from scicat_dagster.scicat.client import COLLECTIONS, ScicatClient
from scicat_dagster.scicat.session import Account


def check_kafka(settings: KafkaSettings, report: Report) -> None:
    """Whether the brokers answer, and have every topic that is named."""
    if not settings.bootstrap_servers:
        return
    try:
        partitions = _partitions(settings)
    except IngestionError as error:
        report.failed("kafka", error)
        return
    report.add(
        "kafka", "ok",
        f"{', '.join(settings.bootstrap_servers)} answers. Whether we may read a topic, or write to "
        "kafka.dead_letter_topic, shows only when it does.",
    )  # fmt: skip
    named = dict.fromkeys(settings.topics, "kafka.topics")
    if settings.dead_letter_topic:
        named[settings.dead_letter_topic] = "kafka.dead_letter_topic"
    for topic, key in named.items():
        if partitions.get(topic):
            report.add("kafka", "ok", f"{key}: {topic} has {partitions[topic]} partitions.")
        else:
            report.add(
                "kafka", "mistake",
                f"{key}: {topic} does not exist, or this account may not see it.",
                f"Create the topic, give the account the right to describe it, or correct {key}.",
            )  # fmt: skip


def _partitions(settings: KafkaSettings) -> dict[str, int]:
    """How many partitions each topic has that this account may see.

    Raises
    ------
    PermanentError
        The settings are no good, or the brokers do not take our login.
    BrokerAwayError
        The brokers do not answer.
    """
    said: list[KafkaError] = []
    try:
        admin = AdminClient(client_configuration(settings) | {"error_cb": said.append})
    except (KafkaException, ValueError, TypeError) as error:
        raise unusable(error, settings) from None
    try:
        # All of them: a broker may create a topic that is asked for by its name.
        found = admin.list_topics(timeout=PROBE_SECONDS).topics
    except KafkaException as error:
        admin.poll(0)
        servers = ", ".join(settings.bootstrap_servers)
        refused = [
            each
            for each in said
            if each.code() == KafkaError._AUTHENTICATION  # noqa: SLF001 - librdkafka names its own codes so
        ]
        if refused:
            raise PermanentError(
                f"Kafka at {servers} does not let us in: {refused[0].str()}.",
                remedy="Correct the user name, the password and the mechanism in the kafka section.",
            ) from None
        raise BrokerAwayError(
            f"Kafka at {servers} does not answer: {_words(error)}.",
            remedy="See that the brokers run and that the kafka section is right.",
        ) from None
    return {topic: len(metadata.partitions) for topic, metadata in found.items()}


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.str().rstrip(".") if isinstance(reason, KafkaError) else str(reason)


def check_scicat(settings: Settings, schemas: SchemaCollection, client: ScicatClient, report: Report) -> None:
    """Whether SciCat works, knows us, and knows what the configuration and the schemas refer to."""
    host = settings.scicat.host
    try:
        client.check_health()
        report.add("scicat", "ok", f"{host} says that it is healthy.")
        _check_api(client, report)
        account = client.account()
    except IngestionError as error:
        report.failed("scicat", error)
        return
    if account is None:
        report.add(
            "scicat", "mistake", f"{host} does not know our login.",
            "Put a valid token, or username and password, into the scicat section.",
        )  # fmt: skip
        return
    _check_rights(account, settings, report)
    if settings.ingestion.samples:
        _check_samples(account, client, report)
    _check_references(settings, schemas, client, report)


def _check_api(client: ScicatClient, report: Report) -> None:
    """Which generation the server is, which API is used for what, and whether the two fit."""
    generation = client.generation
    used = {name: client.route(name).dialect.version for name in COLLECTIONS}
    named = ", ".join(f"{name} by v{version}" for name, version in used.items())
    what = f"The server is SciCat {generation}. We use {named}, everything else by v3."
    if 4 in used.values() and not generation.has_v4:
        report.add(
            "scicat", "mistake", f"{what} The server has no API v4.",
            "Set scicat.api to v3, and take v4/ out of scicat.api_endpoints.",
        )  # fmt: skip
    else:
        report.add("scicat", "ok", what)


def _check_rights(account: Account, settings: Settings, report: Report) -> None:
    groups = ", ".join(account.groups) or "no group that it tells"
    report.add(
        "scicat", "ok",
        f"We are {account.name}, in {groups}. Whether this account may create datasets, with a pid and for "
        "every group, is a setting of the server that it tells nobody; the first registration shows it.",
    )  # fmt: skip
    owner = settings.dataset.default_owner_group
    if owner and account.groups and owner not in account.groups:
        report.add(
            "scicat", "warning",
            f"dataset.default_owner_group: {account.name} is not in {owner}.",
            "Make it a member, or see that it may create datasets for every group.",
        )  # fmt: skip


def _check_samples(account: Account, client: ScicatClient, report: Report) -> None:
    """Whether this account may ask for samples, so that none is made twice."""
    try:
        client.samples_of_proposal("no proposal")
    except LookupError as error:
        report.add(
            "scicat", "mistake", f"ingestion.samples: {account.name} may not ask for samples. {error}",
            "See that scicat.api_endpoints.samples is right, or set ingestion.samples to false.",
        )  # fmt: skip
    except IngestionError as error:
        report.failed("scicat", error, "ingestion.samples")
    else:
        report.add(
            "scicat", "ok",
            f"ingestion.samples: {account.name} may ask for samples. Whether it may create them for every "
            "group is a setting of the server (SAMPLE_PRIVILEGED_GROUPS, ADMIN_GROUPS); the first run start "
            "shows it.",
        )  # fmt: skip


def _check_references(
    settings: Settings, schemas: SchemaCollection, client: ScicatClient, report: Report
) -> None:
    endpoints = settings.scicat.api_endpoints
    known: list[tuple[str, str, str, str, Result]] = [
        # Everybody may read instruments. A proposal may be there although we must not see it.
        (
            "instrument",
            endpoints.instruments,
            "instrumentId",
            settings.dataset.default_instrument_id,
            "mistake",
        ),
        ("proposal", endpoints.proposals, "proposalId", settings.dataset.default_proposal_id, "warning"),
    ]
    for kind, endpoint, field, default, result in known:
        for identifier, places in _named(field, default, schemas).items():
            what = f"{', '.join(places)}: the {kind} {identifier}"
            try:
                client.fetch(f"{endpoint}/{quote(identifier, safe='')}")
            except LookupError:
                report.add(
                    "scicat", result, f"{what} is not known to SciCat, or not to us.",
                    f"Correct it, or add the {kind} to SciCat.",
                )  # fmt: skip
            except IngestionError as error:
                report.failed("scicat", error, what)
            else:
                report.add("scicat", "ok", f"{what} is known.")


def _named(field: str, default: str, schemas: SchemaCollection) -> dict[str, list[str]]:
    """What is assigned to a field whatever the file is, and where that is written."""
    named: dict[str, list[str]] = {}
    if default:
        named[default] = [f"dataset.default_{field.removesuffix('Id')}_id"]
    for file in (*schemas.files, *([schemas.fallback] if schemas.fallback else [])):
        literal = _literal(file.schema, field) if file.schema else ""
        if literal:
            named.setdefault(literal, []).append(str(file.path))
    return named


def _literal(schema: Schema, field: str) -> str:
    """The text that a schema assigns to a field for every file; empty where it depends on the file."""
    constants: dict[str, Value] = {}

    def is_constant(template: object) -> bool:
        return all(name in constants for name in references(template, set(schema.variables)))

    for name, variable in schema.variables.items():
        if isinstance(variable, ValueVariable) and not variable.operator and is_constant(variable.value):
            constants[name] = render(variable.value, constants)
    for assignment in schema.assignments.values():
        wanted = assignment.field_type == "high_level" and assignment.fills == field
        if wanted and assignment.value and is_constant(assignment.value):
            return str(render(assignment.value, constants).value)
    return ""


def check_directories(settings: FileHandlingSettings, files: tuple[Path, ...], report: Report) -> None:
    """Whether this account may read the data, and write the ingestor's own files beside it."""
    if settings.data_directory:
        _check_directory("data_directory", Path(settings.data_directory), os.R_OK | os.X_OK, "read", report)
    if not ((settings.compute_file_hash and settings.save_file_hash) or settings.message_to_file):
        return
    if settings.ingestor_files_directory.startswith("/"):
        places = {Path(os.path.normpath(settings.ingestor_files_directory))}
    else:
        places = {sidecar_directory(Path(os.path.abspath(file)), settings) for file in files}  # noqa: PTH100
        report.add(
            "directory", "ok",
            "ingestion.file_handling.ingestor_files_directory is relative to each data file, so that only "
            "files tell whether it can be written (--against).",
        )  # fmt: skip
    for place in sorted(places):
        # It is made when it is missing.
        try:
            there = answered(place, partial(_nearest_folder, place))
        except SilentStorageError as error:
            key = "ingestion.file_handling.ingestor_files_directory"
            report.add("directory", "mistake", f"{key}: {error.what}", error.remedy)
        else:
            _check_directory("ingestor_files_directory", there, os.W_OK | os.X_OK, "write", report)


def _nearest_folder(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if os.path.exists(folder))  # noqa: PTH110


def _check_directory(key: str, folder: Path, right: int, doing: str, report: Report) -> None:
    name = f"ingestion.file_handling.{key}: {folder}"
    try:
        # Not pathlib's, which raises where there is no right to look.
        is_folder, is_allowed = answered(
            folder,
            lambda: (os.path.isdir(folder), os.access(folder, right)),  # noqa: PTH112
        )
    except SilentStorageError as error:
        report.add("directory", "mistake", f"{name}: {error.what}", error.remedy)
        return
    if not is_folder:
        report.add(
            "directory", "mistake", f"{name} is not a folder here.", "Mount it, or correct the configuration."
        )
    elif not is_allowed:
        report.add(
            "directory", "mistake", f"{name}: the account that runs this command may not {doing} there.",
            "Give the account that runs Dagster this right, and run this command as that account.",
        )  # fmt: skip
    else:
        report.add("directory", "ok", f"{name}: the account that runs this command may {doing} there.")
