"""The facility's configuration file: what it may say, how it is read, and what is wrong with it.

The sections and keys are those that facilities already use with scicat-ingestor, so that an existing file
works unchanged; keys marked *new* exist only here. Only reading and checking the file belongs here: schema
files are read by :mod:`scicat_dagster.schemas`, and nothing here opens a connection.

Any string may hold ``${NAME}`` or ``${NAME:-default}``, replaced from the environment. Secrets are
:class:`pydantic.SecretStr`; no error raised here repeats a value that was read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
)

from scicat_dagster.errors import PermanentError
from scicat_dagster.yaml_file import UnreadableError, read_yaml

CONFIGURATION_VARIABLE = "SCICAT_INGESTOR_CONFIG"
"""The environment variable that holds the path of the configuration file."""

DEFAULT_TIMEOUT_SECONDS = 30.0
"""What ``scicat.timeout: 0`` means."""

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


Text = Annotated[str, BeforeValidator(_text)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_comma_separated)]
Secret = Annotated[SecretStr, BeforeValidator(_text)]
HeaderSecret = Annotated[Secret, AfterValidator(_header_value)]


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
    generate_dataset_pid: bool = False
    dataset_pid_prefix: Text = "20.500.12269"
    default_instrument_id: Text = ""
    default_proposal_id: Text = ""
    default_owner_group: Text = ""
    default_access_groups: Names = ()


class FileHandlingSettings(_Section):
    """How the announced file is waited for, measured and listed."""

    compute_file_stats: bool = True
    compute_file_hash: bool = True
    file_hash_algorithm: Annotated[str, AfterValidator(_known_algorithm)] = "blake2b"
    save_file_hash: bool = True
    hash_file_extension: str = "b2b"
    ingestor_files_directory: str = "../ingestor"
    message_to_file: bool = True
    message_file_extension: str = "message.json"
    file_path_type: Literal["relative", "absolute"] = "relative"
    data_directory: str = ""
    data_file_open_max_tries: PositiveInt = 3
    data_file_open_retry_delay: tuple[NonNegativeFloat, ...] = ()

    def retry_delays(self) -> tuple[float, ...]:
        """Seconds to wait between the tries to open a file; one fewer than there are tries."""
        given = self.data_file_open_retry_delay or (3.0,)
        waits = self.data_file_open_max_tries - 1
        return tuple(given[min(index, len(given) - 1)] for index in range(waits))


class IngestionSettings(_Section):
    """What happens to a file on its way to the catalogue."""

    dry_run: bool = False
    offline_ingestor_executable: Any = None
    max_offline_ingestors: PositiveInt = 10
    offline_ingestors_wait_time: Any = None
    schemas_directory: str = "schemas"
    fallback_schema_file_path: str = ""
    check_if_dataset_exists_by_pid: bool = True
    check_if_dataset_exists_by_metadata: bool = True
    check_if_dataset_exists_by_metadata_key: str = "job_id"
    file_handling: FileHandlingSettings = FileHandlingSettings()


class KafkaSettings(_Section):
    """Where the announcements are read."""

    topics: Names = ()
    group_id: Text = ""
    bootstrap_servers: Names = ()
    security_protocol: str = ""
    sasl_mechanism: str = ""
    sasl_username: Text = ""
    sasl_password: Secret = SecretStr("")
    ssl_ca_location: str = ""
    individual_message_commit: bool = True
    enable_auto_commit: bool = True
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    dead_letter_topic: str = ""
    """New: a topic to which rejected messages are sent as well."""


class LoggingSettings(_Section):
    """Accepted for compatibility; Dagster's own settings decide what is logged and where."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


class ApiEndpoints(_Section):
    """Paths of the API's collections, relative to its root."""

    datasets: str = "datasets"
    proposals: str = "proposals"
    origdatablocks: str = "origdatablocks"
    instruments: str = "instruments"
    samples: str = "samples"


class ScicatSettings(_Section):
    """Where the catalogue is and how we log in: with a token, or (new) with a user name and password."""

    host: Annotated[str, AfterValidator(_api_root)]
    token: HeaderSecret = SecretStr("")
    username: Text = ""
    password: Secret = SecretStr("")
    frontend: Annotated[str, AfterValidator(lambda url: _api_root(url) if url else url)] = ""
    additional_headers: dict[str, HeaderSecret] = Field(default_factory=dict)
    timeout: NonNegativeFloat = 0
    stream: bool = True
    verify: bool = True
    health_endpoint: str = "health"
    api_endpoints: ApiEndpoints = ApiEndpoints()

    @property
    def timeout_seconds(self) -> float:
        """How long one answer may take."""
        return self.timeout or DEFAULT_TIMEOUT_SECONDS

    @property
    def frontend_url(self) -> str:
        """The root of the catalogue's web pages: ``frontend`` (new), or the host without ``/api/v3``."""
        return self.frontend or re.sub(r"/api(/v\d+)?$", "", self.host)


class HealthCheckSettings(_Section):
    """Where the health endpoint listens."""

    host: str = "127.0.0.1"
    port: NonNegativeInt = 8080


class Settings(_Section):
    """The whole configuration file."""

    nexus_file: str = ""
    done_writing_message_file: str = ""
    config_file: str = ""
    id: Text = ""
    dataset: DatasetSettings = DatasetSettings()
    ingestion: IngestionSettings = IngestionSettings()
    kafka: KafkaSettings = KafkaSettings()
    logging: LoggingSettings = LoggingSettings()
    scicat: ScicatSettings
    health_check: HealthCheckSettings = HealthCheckSettings()


@dataclass(frozen=True)
class Configuration:
    """A configuration file that was read."""

    path: Path
    """Where it was read; relative paths in it are relative to this file's folder."""
    settings: Settings
    warnings: tuple[str, ...]
    """What is odd about it but does not prevent its use."""

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


def load_configuration(path: Path, environment: Mapping[str, str]) -> Configuration:
    """Read a configuration file.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is not YAML, names a variable that is not set, or holds a value that a
        key does not allow.
    """
    path = path.absolute()
    raw = _read_sections(path)
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
    return Configuration(path, settings, tuple(_warnings(filled, settings)))


def unknown_keys(configuration: Configuration) -> tuple[str, ...]:
    """The warnings that ``validate`` turns into mistakes: keys that mean nothing here."""
    return tuple(warning for warning in configuration.warnings if " is not a known key" in warning)


def _read_sections(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except UnreadableError as error:
        raise ConfigurationError(path, (f"{error}.",)) from None
    if not isinstance(raw, dict):
        raise ConfigurationError(path, ("it must hold sections such as `kafka:` and `scicat:`.",))
    return raw


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


def _contradictions(settings: Settings) -> list[str]:
    found = []
    scicat = settings.scicat
    if scicat.username and not scicat.password.get_secret_value():
        found.append("scicat.password: is missing, and scicat.username is given.")
    handling = settings.ingestion.file_handling
    if handling.save_file_hash and not handling.hash_file_extension and handling.compute_file_hash:
        found.append("ingestion.file_handling.hash_file_extension: is empty, and save_file_hash is true.")
    if handling.data_directory and not handling.data_directory.startswith("/"):
        found.append("ingestion.file_handling.data_directory: must be an absolute path.")
    if settings.kafka.dead_letter_topic in settings.kafka.topics:
        found.append("kafka.dead_letter_topic: is one of kafka.topics, so that it would be read for ever.")
    if settings.kafka.topics and not settings.kafka.bootstrap_servers:
        found.append("kafka.bootstrap_servers: is missing, and kafka.topics are given.")
    return found


def _warnings(raw: dict[str, Any], settings: Settings) -> list[str]:
    found = [f"{place} is not a known key and has no effect." for place in _unknown(raw, Settings, "")]
    if raw.get("logging"):
        found.append("logging: has no effect; Dagster's own logging settings replace it.")
    if not settings.scicat.verify:
        found.append("scicat.verify is false: anybody between here and the catalogue can read our token.")
    if not (settings.scicat.token.get_secret_value() or settings.scicat.username):
        found.append("scicat: neither token nor username is given, so nothing can be registered.")
    if not settings.kafka.topics:
        found.append("kafka.topics is empty: no announcement will be read.")
    return found


def _unknown(raw: dict[str, Any], model: type[BaseModel], place: str) -> list[str]:
    if model.model_config.get("extra") == "allow":
        return []
    found = []
    for key, value in raw.items():
        where = f"{place}.{key}".lstrip(".")
        field = model.model_fields.get(key)
        if field is None:
            found.append(where)
        elif isinstance(value, dict) and _is_section(field.annotation):
            found.extend(_unknown(value, field.annotation, where))
    return found


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
