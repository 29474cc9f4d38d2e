"""The facility's configuration file: what it may say, how it is read, and what is wrong with it.

The sections and keys are those that facilities already use with scicat-ingestor, so that an existing file
works unchanged; keys marked *new* exist only here. Only reading and checking the file belongs here: schema
files are read by :mod:`scicat_dagster.schemas`, and nothing here opens a connection.

Any string may hold ``${NAME}`` or ``${NAME:-default}``, replaced from the environment. Secrets are
:class:`pydantic.SecretStr`; no error raised here repeats a value that was read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
)

from scicat_dagster.errors import PermanentError
from scicat_dagster.nearest import suggestion
from scicat_dagster.yaml_file import UnreadableError, parse_yaml, read_text

CONFIGURATION_VARIABLE = "SCICAT_INGESTOR_CONFIG"
"""The environment variable that holds the path of the configuration file."""

_SHORTEST_DELAY, _LONGEST_DELAY = 1.0, 120.0

DEFAULT_TIMEOUT_SECONDS = 30.0
"""What ``scicat.timeout: 0`` means."""

_HASH_DIGITS = 12
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>[^}]*))?\}")


class ConfigurationError(PermanentError):
    """The configuration file cannot be used; ``mistakes`` names each place and its remedy."""

    def __init__(self, path: Path, mistakes: tuple[str, ...]) -> None:
        super().__init__(
            f"The configuration file {path} cannot be used: " + " ".join(mistakes),
            remedy=f"Correct it, then run `scicat-dagster validate {path}`.",
        )
        self.path = path
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.mistakes)


def _comma_separated(value: object) -> object:
    value = _text(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _text(value: object) -> object:
    # YAML reads an unquoted group or proposal number as a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _header_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value().strip()
    if not (value.isascii() and value.isprintable()):
        raise ValueError("holds characters that no HTTP header can")
    return SecretStr(value)


# The input types are for the JSON Schema, which tells editors what else may be written.
Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | float)]
Names = Annotated[
    tuple[Text, ...], BeforeValidator(_comma_separated, json_schema_input_type=Text | tuple[Text, ...])
]
Secret = Annotated[SecretStr, BeforeValidator(_text, json_schema_input_type=str | float)]
HeaderSecret = Annotated[Secret, AfterValidator(_header_value)]


_PATH_TYPES = ("relative", "absolute")


def _path_type(value: object) -> object:
    # As in scicat-ingestor, where everything but `relative` is absolute. It is named as a mistake.
    return "absolute" if isinstance(value, str) and value not in _PATH_TYPES else value


_OFFSET_RESETS = {
    "beginning": "earliest",
    "smallest": "earliest",
    "end": "latest",
    "largest": "latest",
}
"""Kafka's client has several names for each."""


def _offset_reset(value: object) -> object:
    return _OFFSET_RESETS.get(value, value) if isinstance(value, str) else value


def _known_algorithm(name: str) -> str:
    if name == "blake3":
        return name
    if name not in hashlib.algorithms_available or name.startswith("shake_"):
        raise ValueError(
            "is not a checksum algorithm; use blake3 or one of hashlib's, such as blake2b, sha256 or md5"
        )
    return name


def _api_root(url: str) -> str:
    if not re.match(r"https?://[^/]", url):
        raise ValueError("must begin with https:// (or http://) and name a host")
    if "@" in url.split("/")[2]:
        raise ValueError("must not hold a user name or password; use scicat.username and scicat.password")
    return url.rstrip("/")


class _Section(BaseModel):
    # Errors would otherwise quote the value that was refused, which may be a secret.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class DatasetSettings(_Section):
    """What a dataset gets where its schema says nothing."""

    allow_dataset_pid: bool = True
    """Whether we send a pid. If not, SciCat makes it, and a registered file is recognised by its metadata."""
    generate_dataset_pid: bool = False
    """Whether the pid is generated, whatever the schema assigns. It is always the same for the same file."""
    dataset_pid_prefix: Text = "20.500.12269"
    """What is put before a generated pid, and before one that has no prefix."""
    default_instrument_id: Text = ""
    """SciCat's pid of the instrument, for datasets whose schema assigns none."""
    default_proposal_id: Text = ""
    """The proposal of datasets whose schema assigns none."""
    default_owner_group: Text = ""
    """The group that owns datasets whose schema assigns none. SciCat needs one."""
    default_access_groups: Names = ()
    """The groups that may read datasets whose schema assigns none: a list, or separated by commas."""


class FileHandlingSettings(_Section):
    """How the announced file is waited for, measured and listed."""

    compute_file_stats: bool = True
    """Whether owner and permissions of each file are listed."""
    compute_file_hash: bool = True
    """Whether each file's checksum is computed and listed. The whole file is read for it."""
    file_hash_algorithm: Annotated[str, AfterValidator(_known_algorithm)] = "blake2b"
    """The checksum: blake3, or one of hashlib's with a length of its own, such as blake2b, sha256 or md5."""
    save_file_hash: bool = True
    """Whether the checksum is also written to a file beside the data."""
    hash_file_extension: str = "b2b"
    """The extension of the file that holds the checksum."""
    ingestor_files_directory: str = "../ingestor"
    """Where our own files go: relative to the folder of each data file, or absolute. Made when missing."""
    message_to_file: bool = True
    """Whether the announcement is also written to a file beside the data."""
    message_file_extension: str = "message.json"
    """The extension of the file that holds the announcement."""
    file_path_type: Annotated[Literal["relative", "absolute"], BeforeValidator(_path_type)] = "relative"
    """How files are listed: `relative` to the dataset's sourceFolder, or `absolute`."""
    data_directory: str = ""
    """The absolute folder that all files are in; announcements of others are rejected. Empty: anywhere."""
    data_file_open_max_tries: NonNegativeInt = 3
    """How many times an announced file is tried to be opened before it is tried again later. 0: once."""
    data_file_open_retry_delay: tuple[FiniteFloat, ...] = ()
    """Seconds to wait after each try to open a file, at most 120; the last one is repeated. Negative: 1.
    Empty: 3 seconds each.
    """

    def retry_delays(self) -> tuple[float, ...]:
        """Seconds to wait between the tries to open a file; one fewer than there are tries."""
        given = self.data_file_open_retry_delay or (3.0,)
        waits = max(self.data_file_open_max_tries - 1, 0)
        delays = (given[min(index, len(given) - 1)] for index in range(waits))
        return tuple(min(delay, _LONGEST_DELAY) if delay >= 0 else _SHORTEST_DELAY for delay in delays)


class IngestionSettings(_Section):
    """What happens to a file on its way to the catalogue."""

    dry_run: bool = False
    """Do everything but write: each run shows what it would post."""
    offline_ingestor_executable: Any = None
    """Accepted, without effect."""
    max_offline_ingestors: PositiveInt = 10
    """How many files are worked on at once."""
    offline_ingestors_wait_time: Any = None
    """Accepted, without effect."""
    schemas_directory: str = "schemas"
    """The folder of the schemas (`*.imsc.yml`); relative to this file's folder."""
    fallback_schema_file_path: str = ""
    """The schema of files that no other is for: a path relative to this file's folder, or `ess-fallback`,
    which comes with the package. Empty: such files fail.
    """
    check_if_dataset_exists_by_pid: bool = True
    """Whether a dataset with the same pid is looked for before one is created."""
    check_if_dataset_exists_by_metadata: bool = True
    """Whether a dataset with the same entry in its scientific metadata is looked for before one is created.
    """
    check_if_dataset_exists_by_metadata_key: str = "job_id"
    """The entry of the scientific metadata that identifies a measurement."""
    file_handling: FileHandlingSettings = FileHandlingSettings()
    """How the announced file is waited for, measured and listed."""


class KafkaSettings(_Section):
    """Where the announcements are read."""

    topics: Names = ()
    """The topics with announcements: a list, or separated by commas."""
    group_id: Text = ""
    """The consumer group to which positions are reported for lag tools. We keep our own position."""
    bootstrap_servers: Names = ()
    """The brokers as `host:port`: a list, or separated by commas."""
    security_protocol: str = ""
    """How brokers are talked to: plaintext, ssl, sasl_plaintext or sasl_ssl. Empty: plaintext."""
    sasl_mechanism: str = ""
    """How we log in with the protocols that begin with sasl, such as SCRAM-SHA-256."""
    sasl_username: Text = ""
    """The user name to log in with."""
    sasl_password: Secret = SecretStr("")
    """The password to log in with; better `${NAME}` from the environment."""
    ssl_ca_location: str = ""
    """The file with the certificates that sign the brokers' ones. Empty: the system's."""
    options: dict[str, Secret] = Field(default_factory=dict)
    """New: further settings of librdkafka by their own names, such as `ssl.certificate.location`,
    `sasl.kerberos.service.name` or `client.id`. Their values are treated as secrets."""
    individual_message_commit: bool = True
    """Accepted, without effect."""
    enable_auto_commit: bool = True
    """Accepted, without effect."""
    auto_offset_reset: Annotated[
        Literal["earliest", "latest"],
        BeforeValidator(
            _offset_reset,
            json_schema_input_type=Literal["earliest", "latest", "beginning", "smallest", "end", "largest"],
        ),
    ] = "earliest"
    """Where the very first start begins: at the `earliest` (or `beginning`, `smallest`) or the `latest` (or
    `end`, `largest`) announcement.
    """
    dead_letter_topic: str = ""
    """New: a topic to which rejected messages are sent as well. Empty: they are not."""


class LoggingSettings(_Section):
    """Accepted for compatibility; Dagster's own settings decide what is logged and where."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


_FIRST_PART = re.compile(r"^/?([^/?#]*)(.*)$", re.DOTALL)


class ApiEndpoints(_Section):
    """Paths of the API's collections, relative to its root."""

    datasets: str = "datasets"
    """Where datasets are."""
    proposals: str = "proposals"
    """Where proposals are."""
    origdatablocks: str = "origdatablocks"
    """Where the lists of files are."""
    instruments: str = "instruments"
    """Where instruments are."""
    samples: str = "samples"
    """Where samples are."""
    jobs: str = "jobs"
    """Accepted, without effect: no jobs are made."""
    health: str = ""
    """Where SciCat says whether it is healthy, which may be an absolute address. Empty: `health_endpoint`."""

    def resolve(self, address: str) -> str:
        """An address of a schema, whose first part may be a collection's name, as this server has it."""
        name, rest = _FIRST_PART.findall(address)[0]
        path = {
            "datasets": self.datasets,
            "proposals": self.proposals,
            "origdatablocks": self.origdatablocks,
            "instruments": self.instruments,
            "samples": self.samples,
            "jobs": self.jobs,
        }.get(name)
        # What was made with the configured path already is not a schema's address.
        if path is None or re.match(rf"{re.escape(path)}([/?#]|$)", address):
            return address
        return f"{path}{rest}"


class ScicatSettings(_Section):
    """Where the catalogue is and how we log in: with a token, or (new) with a user name and password."""

    host: Annotated[str, AfterValidator(_api_root)]
    """The root of the API, such as https://scicat.example.org/api/v3."""
    token: HeaderSecret = SecretStr("")
    """The token to log in with; better `${NAME}` from the environment."""
    username: Text = ""
    """New: the account to log in with instead of a token. The login is then renewed by itself."""
    password: Secret = SecretStr("")
    """New: the account's password; better `${NAME}` from the environment."""
    frontend: Annotated[str, AfterValidator(lambda url: _api_root(url) if url else url)] = ""
    """New: the address of the catalogue's web pages. Empty: `host` without /api/v3."""
    additional_headers: dict[str, HeaderSecret] = Field(default_factory=dict)
    """HTTP headers that are sent with each request to SciCat."""
    timeout: NonNegativeFloat = 0
    """Seconds that one answer may take. 0: 30 seconds."""
    stream: bool = True
    """Accepted, without effect."""
    verify: bool = True
    """Whether the server's certificate is verified."""
    health_endpoint: str = "health"
    """Where SciCat says whether it is healthy, relative to `host`. `api_endpoints.health` takes its place."""
    api_endpoints: ApiEndpoints = ApiEndpoints()
    """Paths of the API's collections, relative to `host`."""

    @property
    def timeout_seconds(self) -> float:
        """How long one answer may take."""
        return self.timeout or DEFAULT_TIMEOUT_SECONDS

    @property
    def health_address(self) -> str:
        """Where the server says whether it is healthy, relative to ``host`` or absolute."""
        return self.api_endpoints.health or self.health_endpoint

    @property
    def frontend_url(self) -> str:
        """The root of the catalogue's web pages: ``frontend`` (new), or the host without ``/api/v3``."""
        return self.frontend or re.sub(r"/api(/v\d+)?$", "", self.host)


class HealthCheckSettings(_Section):
    """Where the health endpoint listens."""

    host: str = "127.0.0.1"
    """The address to listen at."""
    port: NonNegativeInt = 8080
    """The TCP port to listen at."""


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_CRON_PART = re.compile(r"(?:\*|(?P<first>\d+)(?:-(?P<last>\d+))?)(?:/(?P<step>\d+))?")


def _cron(text: str) -> str:
    # Dagster would refuse all definitions because of one schedule that it cannot read.
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError("must be a cron expression of five fields, such as `0 3 * * *` for three each night")
    for field, (name, lowest, highest) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            read = _CRON_PART.fullmatch(part)
            if read is None:
                raise ValueError(f"holds {part!r} for the {name}, which is no number, range or step")
            numbers = [int(number) for number in (read["first"], read["last"]) if number]
            if any(not lowest <= number <= highest for number in numbers) or numbers != sorted(numbers):
                raise ValueError(f"holds {part!r} for the {name}, which goes from {lowest} to {highest}")
            if read["step"] and not 0 < int(read["step"]) <= highest:
                raise ValueError(f"holds {part!r} for the {name}, whose step is useless")
    return " ".join(fields)


class ReconcileSettings(_Section):
    """New: the sweep that finds files on disk which no announcement has brought into the catalogue.

    Its schedule is off until somebody turns it on in Dagster.
    """

    roots: Names = ()
    """The folders to sweep: a list, or separated by commas. Empty: `ingestion.file_handling.data_directory`.
    """
    cron: Annotated[str, AfterValidator(_cron)] = "0 3 * * *"
    """When to sweep, as a cron expression of five fields with numbers, in UTC."""
    since_days: NonNegativeInt = 30
    """Only files that were modified in so many days are looked at. 0: all, however old."""


class RetentionSettings(_Section):
    """New: how long Dagster remembers the files that are registered. The catalogue keeps them anyway."""

    days: NonNegativeInt = 0
    """Files that were registered longer ago lose their partition, runs and logs. 0: never. With some 100,000
    files Dagster's pages become slow."""
    cron: Annotated[str, AfterValidator(_cron)] = "30 4 * * *"
    """When to forget, as a cron expression of five fields with numbers, in UTC."""


class MonitoringSettings(_Section):
    """New: from when on something looks wrong."""

    freshness_hours: NonNegativeFloat = 0
    """The asset raw_dataset is shown as stale when no file was registered for so many hours. 0: never,
    because an instrument may rest."""


def _webhook(secret: SecretStr) -> SecretStr:
    address = secret.get_secret_value().strip()
    is_text = address.isascii() and address.isprintable()
    if address and not (re.match(r"https?://[^/\s]", address) and is_text):
        raise ValueError("must be an address that begins with https:// (or http://) and names a host")
    return SecretStr(address)


def _mail_address(address: str) -> str:
    if address and not (re.fullmatch(r"[^@\s,<>]+@[^@\s,<>]+", address) and address.isascii()):
        raise ValueError("must be an e-mail address such as odin@example.org, without a name around it")
    return address


def _ascii(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isascii():
        raise ValueError("holds characters that no login at a mail server can")
    return secret


WebhookSecret = Annotated[Secret, AfterValidator(_webhook)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]

_MAIL_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class EmailSettings(_Section):
    """How e-mail is sent. Nothing is sent as long as no host is given."""

    host: str = ""
    """The mail server. Empty: no e-mail."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Its TCP port. 0: 587 with starttls, 465 with tls, 25 with none."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is kept private: `starttls`, `tls` from its beginning, or `none` for a server that
    is reached within the facility only."""
    username: Annotated[Text, AfterValidator(lambda name: _ascii(SecretStr(name)).get_secret_value())] = ""
    """The account to log in with. Empty: no login."""
    password: Annotated[Secret, AfterValidator(_ascii)] = SecretStr("")
    """The account's password; better `${NAME}` from the environment."""
    sender: MailAddress = ""
    """The address that it comes from."""
    recipients: Annotated[
        tuple[MailAddress, ...],
        BeforeValidator(_comma_separated, json_schema_input_type=Text | tuple[Text, ...]),
    ] = ()
    """The addresses that it goes to: a list, or separated by commas."""

    @property
    def port_number(self) -> int:
        """The port, also where the configuration leaves it to the kind of security."""
        return self.port or _MAIL_PORTS[self.security]


class NotificationSettings(_Section):
    """New: who is told about failed files, in one message for all that is new."""

    every_minutes: PositiveInt = 15
    """How often is looked whether there is something to tell."""
    webhook: WebhookSecret = SecretStr("")
    """An address that gets each message as JSON by a POST; better `${NAME}` from the environment."""
    slack_webhook: WebhookSecret = SecretStr("")
    """The address of an incoming webhook of Slack, or of what takes its messages, such as Mattermost."""
    email: EmailSettings = EmailSettings()
    """How e-mail is sent. Nothing is sent as long as no host is given."""


class Settings(_Section):
    """The whole configuration file."""

    nexus_file: str = ""
    """Accepted, without effect."""
    done_writing_message_file: str = ""
    """Accepted, without effect."""
    config_file: str = ""
    """Accepted, without effect."""
    id: Text = ""
    """The name of this ingestor, for people."""
    dataset: DatasetSettings = DatasetSettings()
    """What a dataset gets where its schema says nothing."""
    ingestion: IngestionSettings = IngestionSettings()
    """What happens to a file on its way to the catalogue."""
    kafka: KafkaSettings = KafkaSettings()
    """Where the announcements are read."""
    logging: LoggingSettings = LoggingSettings()
    """Accepted, without effect: Dagster's own settings decide what is logged and where."""
    scicat: ScicatSettings
    """Where the catalogue is and how we log in: with a token, or with a user name and password."""
    health_check: HealthCheckSettings = HealthCheckSettings()
    """Where the health endpoint listens."""
    reconcile: ReconcileSettings = ReconcileSettings()
    """New: the sweep that finds files on disk which no announcement has brought into the catalogue."""
    retention: RetentionSettings = RetentionSettings()
    """New: how long Dagster remembers the files that are registered."""
    monitoring: MonitoringSettings = MonitoringSettings()
    """New: from when on something looks wrong."""
    notifications: NotificationSettings = NotificationSettings()
    """New: who is told about failed files, in one message for all that is new."""


@dataclass(frozen=True)
class Version:
    """Which content of the file: the beginning of its SHA-256, and when it was modified last."""

    hash: str
    modified_at: datetime

    def __str__(self) -> str:
        return f"{self.hash} of {self.modified_at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Configuration:
    """A configuration file that was read."""

    path: Path
    """Where it was read; relative paths in it are relative to this file's folder."""
    settings: Settings
    warnings: tuple[str, ...]
    """What is odd about it but does not prevent its use."""
    mistakes: tuple[str, ...]
    """Those of the warnings that ``validate`` calls mistakes: unknown keys, and values without a meaning."""
    version: Version
    """Which content of the file this is."""
    text: str = dataclasses.field(repr=False)
    """The file as it is written; it may hold secrets."""
    environment: Mapping[str, str] = dataclasses.field(repr=False, compare=False)
    """What its placeholders were filled from; it may hold secrets."""

    @property
    def schemas_directory(self) -> Path:
        """The folder of the ``*.imsc.yml`` files."""
        return self.path.parent / self.settings.ingestion.schemas_directory

    @property
    def fallback_schema(self) -> str:
        """The fallback schema's absolute path, the name of one shipped with the package, or nothing."""
        given = self.settings.ingestion.fallback_schema_file_path
        beside = self.path.parent / given
        return str(beside) if given and ("/" in given or beside.exists()) else given


def load_configuration(
    path: Path, environment: Mapping[str, str], *, kept: Path | None = None
) -> Configuration:
    """Read a configuration file, or else a version of it that was ``kept`` elsewhere.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is not YAML, names a variable that is not set, or holds a value that a
        key does not allow.
    """
    path = path.absolute()
    raw, text, version = _read_sections(path, kept or path)
    mistakes: list[str] = []
    filled = _fill_placeholders(raw, environment, place="", mistakes=mistakes)
    if mistakes:
        raise ConfigurationError(path, tuple(mistakes))
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as error:
        raise ConfigurationError(path, tuple(_mistakes(error))) from None
    mistakes.extend(_contradictions(settings))
    if mistakes:
        raise ConfigurationError(path, tuple(mistakes))
    named = tuple(_unknown_words(filled))
    warnings = (*named, *_warnings(filled, settings))
    return Configuration(path, settings, warnings, named, version, text, environment)


def _read_sections(path: Path, place: Path) -> tuple[dict[str, Any], str, Version]:
    try:
        text = read_text(place)
        modified_at = datetime.fromtimestamp(place.stat().st_mtime, UTC)
        raw = parse_yaml(text)
    except UnreadableError as error:
        raise ConfigurationError(path, (f"{error}.",)) from None
    except OSError as error:
        raise ConfigurationError(path, (f"it cannot be read ({error.strerror}).",)) from None
    if not isinstance(raw, dict):
        raise ConfigurationError(path, ("it must hold sections such as `kafka:` and `scicat:`.",))
    return raw, text, Version(hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS], modified_at)


def _fill_placeholders(value: Any, environment: Mapping[str, str], *, place: str, mistakes: list[str]) -> Any:
    """The value with its ``${NAME}`` replaced; keys without a value are left out and get their defaults."""
    if isinstance(value, dict):
        return {
            str(key): _fill_placeholders(
                inner, environment, place=f"{place}.{key}".lstrip("."), mistakes=mistakes
            )
            for key, inner in value.items()
            if inner is not None
        }
    if isinstance(value, list):
        return [_fill_placeholders(inner, environment, place=place, mistakes=mistakes) for inner in value]
    if not isinstance(value, str):
        return value

    def from_environment(match: re.Match[str]) -> str:
        name = match["name"]
        if environment.get(name):
            return environment[name]
        if match["fallback"]:
            return match["default"]
        mistakes.append(f"{place}: the environment variable {name} is not set.")
        return ""

    return _PLACEHOLDER.sub(from_environment, value)


def _mistakes(error: ValidationError) -> list[str]:
    found = []
    for detail in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in detail["loc"])
        what = "is missing." if detail["type"] == "missing" else f"{_sentence(detail['msg'])}."
        found.append(f"{place}: {what}")
    return found


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".")


_OWN_KAFKA_OPTIONS = {
    "bootstrap.servers": "; use kafka.bootstrap_servers",
    "group.id": "; use kafka.group_id",
    "auto.offset.reset": "; use kafka.auto_offset_reset",
    "enable.auto.commit": ": positions are kept by the sensor",
    "enable.auto.offset.store": ": positions are kept by the sensor",
    "allow.auto.create.topics": ": reading must not create topics",
}


def _contradictions(settings: Settings) -> list[str]:
    found = []
    scicat = settings.scicat
    if scicat.username and not scicat.password.get_secret_value():
        found.append("scicat.password: is missing, and scicat.username is given.")
    handling = settings.ingestion.file_handling
    if handling.data_directory and not handling.data_directory.startswith("/"):
        found.append("ingestion.file_handling.data_directory: must be an absolute path.")
    found += [
        f"reconcile.roots: {root} must be an absolute path."
        for root in settings.reconcile.roots
        if not root.startswith("/")
    ]
    if settings.kafka.dead_letter_topic in settings.kafka.topics:
        found.append("kafka.dead_letter_topic: is one of kafka.topics, so that it would be read for ever.")
    found += [
        f"kafka.options.{name}: cannot be set here{instead}."
        for name, instead in _OWN_KAFKA_OPTIONS.items()
        if name in settings.kafka.options
    ]
    if settings.kafka.topics and not settings.kafka.bootstrap_servers:
        found.append("kafka.bootstrap_servers: is missing, and kafka.topics are given.")
    email = settings.notifications.email
    if email.host:
        found += [
            f"notifications.email.{key}: is missing, and notifications.email.host is given."
            for key in ("sender", "recipients")
            if not getattr(email, key)
        ]
    if email.username and not email.password.get_secret_value():
        found.append("notifications.email.password: is missing, and notifications.email.username is given.")
    return found


def _unknown_words(raw: dict[str, Any]) -> Iterator[str]:
    yield from _unknown(raw, Settings, "")
    handling = raw.get("ingestion", {}).get("file_handling", {})
    if (path_type := handling.get("file_path_type", "relative")) not in _PATH_TYPES:
        meant = suggestion(path_type, _PATH_TYPES) or "."
        yield (
            "ingestion.file_handling.file_path_type is neither relative nor absolute, and is taken for "
            f"absolute{meant}"
        )


def _warnings(raw: dict[str, Any], settings: Settings) -> list[str]:
    found = []
    if raw.get("logging"):
        found.append("logging: has no effect; Dagster's own logging settings replace it.")
    if not settings.scicat.verify:
        found.append("scicat.verify is false: anybody between here and the catalogue can read our token.")
    if not (settings.scicat.token.get_secret_value() or settings.scicat.username):
        found.append("scicat: neither token nor username is given, so nothing can be registered.")
    found += _readable_by_others(settings)
    if not settings.kafka.topics:
        found.append("kafka.topics is empty: no announcement will be read.")
    email = settings.notifications.email
    if email.host and email.username and email.security == "none":
        found.append("notifications.email.security is none: anybody on the way can read its password.")
    return found


def _readable_by_others(settings: Settings) -> Iterator[str]:
    """Where a password or token travels so that others can read it, or is not used at all."""
    kafka, scicat = settings.kafka, settings.scicat
    protocol = kafka.security_protocol.lower()
    if kafka.sasl_password.get_secret_value() and protocol == "sasl_plaintext":
        yield "kafka.security_protocol is sasl_plaintext: anybody on the way to Kafka can read the password."
    if kafka.sasl_username and not protocol.startswith("sasl"):
        yield (
            f"kafka.sasl_username is given, and security_protocol is {protocol or 'empty'}: there is no "
            "login, and everything can be read on the way. Use sasl_ssl."
        )
    host = urlsplit(scicat.host)
    has_login = scicat.token.get_secret_value() or scicat.username
    if has_login and host.scheme == "http" and host.hostname not in _THIS_MACHINE:
        yield "scicat.host begins with http://: anybody on the way to SciCat can read our token."


def _unknown(raw: dict[str, Any], model: type[BaseModel], place: str) -> Iterator[str]:
    if model.model_config.get("extra") == "allow":
        return
    for key, value in raw.items():
        where = f"{place}.{key}".lstrip(".")
        field = model.model_fields.get(key)
        if field is None:
            meant = suggestion(key, model.model_fields) or "."
            yield f"{where} is not a known key and has no effect{meant}"
        elif isinstance(value, dict) and _is_section(field.annotation):
            yield from _unknown(value, field.annotation, where)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
