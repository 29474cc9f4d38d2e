"""The sections and keys of the configuration file.

They are those that facilities already use with scicat-ingestor, so that an existing file works unchanged;
keys marked *new* exist only here. Secrets are :class:`pydantic.SecretStr`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

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
    model_validator,
)

from scicat_dagster.config.field_types import (
    HeaderSecret,
    Names,
    Secret,
    Text,
    api_root,
    ascii_secret,
    below_root,
    comma_separated,
    cron_expression,
    file_name_patterns,
    known_algorithm,
    mail_address,
    offset_reset,
    or_default,
    path_type,
    upper_case,
    webhook_address,
)

DATA_FILE_NAMES = ("*.nxs", "*.nx", "*.nx5", "*.nexus", "*.hdf", "*.hdf5", "*.h5")
"""What HDF5 files of the field are called. Not ``*.nx*``: ``1.nxs.b2b`` and ``1.nxs.part`` are none."""

_SHORTEST_DELAY, _LONGEST_DELAY = 1.0, 120.0

DEFAULT_TIMEOUT_SECONDS = 30.0
"""What ``scicat.timeout: 0`` means."""


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
    file_hash_algorithm: Annotated[str, AfterValidator(known_algorithm)] = "blake2b"
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
    file_path_type: Annotated[Literal["relative", "absolute"], BeforeValidator(path_type)] = "relative"
    """How files are listed: `relative` to the dataset's sourceFolder, or `absolute`."""
    data_directory: str = ""
    """The absolute folder that all files are in; announcements of others are rejected. Empty: anywhere."""
    file_names: Annotated[Names, AfterValidator(file_name_patterns)] = DATA_FILE_NAMES
    """New: which files of a folder are data files, as patterns of their names such as `*.nxs`: a list, or
    separated by commas. A file that is announced or given by itself may have any name.
    """
    follow_links: Literal["beside", "data_directory", "never"] = "beside"
    """New: whether values are read, and files listed, through links of a file to other files: those that lie
    in its own folder or below (`beside`), anywhere in the data_directory, or `never`.
    """
    data_file_open_max_tries: NonNegativeInt = 3
    """How many times an announced file is tried to be opened before it is tried again later. 0: once."""
    data_file_open_retry_delay: tuple[FiniteFloat, ...] = ()
    """Seconds to wait after each try to open a file, at most 120; the last one is repeated. Negative: 1.
    Empty: 3 seconds each.
    """

    def links_within(self, file: str) -> str:
        """The folder that other files must be in which a file links to; empty where no link is followed."""
        if self.follow_links == "beside":
            return str(PurePosixPath(file).parent)
        return self.data_directory if self.follow_links == "data_directory" else ""

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
    Otherwise, and where nobody knows that entry, one of the same folder and name is.
    """
    check_if_dataset_exists_by_metadata_key: str = "job_id"
    """The entry of the scientific metadata that identifies a measurement."""
    previews: bool = True
    """New: whether each dataset gets a picture of its file's default data as an attachment."""
    samples: bool = False
    """New: whether the sample of each run is made in SciCat where it is not there: when a run start (`pl72`)
    is announced, and at the latest before a dataset whose schema wants its sample attached.
    """
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
            offset_reset,
            json_schema_input_type=Literal["earliest", "latest", "beginning", "smallest", "end", "largest"],
        ),
    ] = "earliest"
    """Where the very first start begins: at the `earliest` (or `beginning`, `smallest`) or the `latest` (or
    `end`, `largest`) announcement.
    """
    dead_letter_topic: str = ""
    """New: a topic to which rejected messages are sent as well. Empty: they are not."""


class GraylogServer(_Section):
    """A Graylog server that takes GELF by UDP."""

    host: str = ""
    """Its name or address."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 12201
    """Its port."""
    facility: Text = "scicat.ingestor"
    """What our messages are marked with."""


class LoggingSettings(_Section):
    """Where what runs say and do is logged, beside Dagster's own pages: files, system log, Graylog."""

    verbose: Any = None
    """Accepted, without effect: Dagster's processes always write to their own output."""
    logging_level: Annotated[
        Literal["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"], BeforeValidator(upper_case)
    ] = "INFO"
    """The least level that is logged."""
    log_message_prefix: Text = ""
    """What each line of the file begins with."""
    file_log: bool = False
    """Whether lines are appended to a file; it may be moved away at any time."""
    file_log_base_name: str = "scicat_ingestor_log"
    """The file's path without its extension, `.log`; relative to this file's folder."""
    file_log_timestamp: bool = False
    """Whether the file's name has the date on which the process began to write it."""
    file_log_json: bool = False
    """Whether each line is a JSON object."""
    system_log: bool = False
    """Whether the system's log gets them, through `/dev/log`."""
    system_log_facility: Literal[
        "auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp",
        "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ] = "mail"  # fmt: skip
    """The facility of the system's log."""
    graylog: bool = False
    """Whether a Graylog server gets them."""
    graylog_host: Text = ""
    """Its name or address."""
    graylog_port: Annotated[int, BeforeValidator(or_default(12201)), Field(gt=0, lt=65536)] = 12201
    """Its port for GELF by UDP."""
    graylog_facility: Text = "scicat.ingestor"
    """What our messages are marked with."""
    graylog_enabled: bool = False
    """Whether the servers of `graylogs` get them."""
    graylogs: tuple[GraylogServer, ...] = ()
    """Further Graylog servers."""

    @property
    def servers(self) -> tuple[GraylogServer, ...]:
        """Every Graylog server that gets our messages."""
        one = GraylogServer(host=self.graylog_host, port=self.graylog_port, facility=self.graylog_facility)
        several = self.graylogs if self.graylog_enabled else ()
        return tuple(server for server in ((one,) if self.graylog else ()) + several if server.host)


_FIRST_PART = re.compile(r"^/?([^/?#]*)(.*)$", re.DOTALL)

_VERSION = re.compile(r"/v(\d+)$")

_BEGINS_WITH_VERSION = re.compile(r"/?v(\d+)/")


def _known_to_v3_only(path: str) -> str:
    """The path in v3 where a configuration says v4, which has no such collection (up to 5.2 at least)."""
    return re.sub(r"^/?v4/", "v3/", path)


V3Path = Annotated[str, AfterValidator(_known_to_v3_only)]


class ApiEndpoints(_Section):
    """Paths of the API's collections: relative to its root, or beginning with a version such as `v3/`."""

    datasets: str = "datasets"
    """Where datasets are."""
    proposals: V3Path = "proposals"
    """Where proposals are."""
    origdatablocks: str = "origdatablocks"
    """Where the lists of files are."""
    instruments: V3Path = "instruments"
    """Where instruments are."""
    samples: V3Path = "samples"
    """Where samples are."""
    jobs: str = "jobs"
    """Where the jobs of schemas are posted."""
    attachments: str = "attachments"
    """Where attachments are in API v4. In v3 they are below their dataset."""
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
            "attachments": self.attachments,
        }.get(name)
        # What was made with the configured path already is not a schema's address.
        if path is None or re.match(rf"{re.escape(path)}([/?#]|$)", address):
            return address
        return f"{path}{rest}"


def version_of(path: str) -> int | None:
    """The version of the API that a path begins with, such as 4 of ``v4/datasets``."""
    found = _BEGINS_WITH_VERSION.match(path)
    return int(found[1]) if found else None


class ScicatSettings(_Section):
    """Where the catalogue is and how we log in: with a token, or (new) with a user name and password."""

    host: Annotated[str, AfterValidator(api_root)]
    """The root of the API, such as https://scicat.example.org/api/v3, or without a version (…/api)."""
    api: Literal["auto", "v3", "v4"] = "auto"
    """New: the API for datasets, origdatablocks, attachments and jobs. `auto`: the version that `host`
    names; where it names none, v4 if the server has it. Everything else is asked for by v3.
    """
    token: HeaderSecret = SecretStr("")
    """The token to log in with; better `${NAME}` from the environment."""
    username: Text = ""
    """New: the account to log in with instead of a token. The login is then renewed by itself."""
    password: Secret = SecretStr("")
    """New: the account's password; better `${NAME}` from the environment."""
    login: Literal["local", "ldap", "oidc"] = "local"
    """New: who checks the login: SciCat itself (`local`) or its LDAP server (`ldap`), with user name and
    password; or the identity provider (`oidc`), whose id token SciCat exchanges for a token of its own.
    """
    oidc_token_file: str = ""
    """New: for `login: oidc` the file that holds the id token. Whoever issues it keeps it valid; the file is
    read at each login.
    """
    frontend: Annotated[str, AfterValidator(lambda url: api_root(url) if url else url)] = ""
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
    """Paths of the API's collections: relative to `host`, from the server's root (`/api/v3/datasets`), or
    whole addresses on this server.
    """

    @model_validator(mode="before")
    @classmethod
    def _with_relative_endpoints(cls, written: Any) -> Any:
        endpoints = written.get("api_endpoints") if isinstance(written, dict) else None
        if not isinstance(endpoints, dict) or not isinstance(written.get("host"), str):
            return written
        relative = {name: below_root(path, written["host"]) for name, path in endpoints.items()}
        # Where the health of the server is asked for may be on any other one.
        kept = {"health": endpoints["health"]} if "health" in endpoints else {}
        return {**written, "api_endpoints": relative | kept}

    @property
    def timeout_seconds(self) -> float:
        """How long one answer may take."""
        return self.timeout or DEFAULT_TIMEOUT_SECONDS

    @property
    def logs_in(self) -> bool:
        """Whether there is something to log in with, so that a token is renewed by itself."""
        return bool(self.oidc_token_file if self.login == "oidc" else self.username)

    @property
    def root(self) -> str:
        """The root of all versions of the API; ``host`` itself where it does not end with a version."""
        return _VERSION.sub("", self.host)

    @property
    def has_versions(self) -> bool:
        """Whether it can be said where the other version of the API is: ``host`` is …/api or …/api/v3."""
        return self.root != self.host or self.host.endswith("/api")

    @property
    def pinned_version(self) -> int | None:
        """The version of the API that ``api`` or else ``host`` names; None where neither does."""
        if self.api != "auto":
            return int(self.api.removeprefix("v"))
        found = _VERSION.search(self.host)
        if found is None:
            return None if self.has_versions else 3
        return 4 if found[1] == "4" else 3

    def address(self, path: str, version: int = 3) -> str:
        """The whole address of a path of the API; one that begins with a version has that version."""
        path = path.lstrip("/")
        if version_of(path) is not None:
            return f"{self.root}/{path}"
        return f"{self.root}/v{version}/{path}" if self.has_versions else f"{self.host}/{path}"

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
    announce_token: HeaderSecret = SecretStr("")
    """New: the token with which files may be announced by `POST /announce`; better `${NAME}` from the
    environment. Empty: nobody can announce files there.
    """


class ReconcileSettings(_Section):
    """New: the sweep that finds files on disk which no announcement has brought into the catalogue.

    Its schedule is off until somebody turns it on in Dagster.
    """

    roots: Names = ()
    """The folders to sweep: a list, or separated by commas. Empty: `ingestion.file_handling.data_directory`.
    """
    cron: Annotated[str, AfterValidator(cron_expression)] = "0 3 * * *"
    """When to sweep, as a cron expression of five fields with numbers, in UTC."""
    since_days: NonNegativeInt = 30
    """Only files that were modified in so many days are looked at. 0: all, however old."""
    watch_minutes: Annotated[FiniteFloat, Field(ge=0, le=24 * 60)] = 0
    """New files in these folders are also looked for all the time, and registered when they were not written
    to for so many minutes. 0: only the sweep looks for files."""


class RetentionSettings(_Section):
    """New: how long Dagster remembers the files that are registered. The catalogue keeps them anyway."""

    days: NonNegativeInt = 0
    """Files that were registered longer ago lose their partition, runs and logs. 0: never. With some 100,000
    files Dagster's pages become slow."""
    cron: Annotated[str, AfterValidator(cron_expression)] = "30 4 * * *"
    """When to delete old records, as a cron expression of five fields with numbers, in UTC."""


_MOST_HOURS = 24 * 30


class MonitoringSettings(_Section):
    """New: from when on something looks wrong."""

    freshness_hours: NonNegativeFloat = 0
    """The asset raw_dataset is shown as stale when no file was registered for so many hours. 0: never,
    because an instrument may rest."""
    unended_run_hours: Annotated[FiniteFloat, Field(ge=0, le=_MOST_HOURS)] = 0
    """A run that was started (`pl72`) and whose file was not announced for so many hours is reported, for as
    long as it is looked for (30 days). 0: never, because only the facility knows how long a run may take."""


WebhookSecret = Annotated[Secret, AfterValidator(webhook_address)]

MailAddress = Annotated[str, AfterValidator(mail_address)]

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
    username: Annotated[
        Text, AfterValidator(lambda name: ascii_secret(SecretStr(name)).get_secret_value())
    ] = ""
    """The account to log in with. Empty: no login."""
    password: Annotated[Secret, AfterValidator(ascii_secret)] = SecretStr("")
    """The account's password; better `${NAME}` from the environment."""
    sender: MailAddress = ""
    """The address that it comes from."""
    recipients: Annotated[
        tuple[MailAddress, ...],
        BeforeValidator(comma_separated, json_schema_input_type=Text | tuple[Text, ...]),
    ] = ()
    """The addresses that it goes to: a list, or separated by commas."""

    @property
    def port_number(self) -> int:
        """The port, also where the configuration leaves it to the kind of security."""
        return self.port or _MAIL_PORTS[self.security]


class NotificationSettings(_Section):
    """New: who is told about failed files, in one message for all that is new."""

    dagster_url: Annotated[str, AfterValidator(lambda url: api_root(url) if url else url)] = ""
    """The address of Dagster's web pages, for links to runs in messages and on the command line. Empty: no
    links."""
    every_minutes: PositiveInt = 15
    """How often is looked whether there is something to tell."""
    webhook: WebhookSecret = SecretStr("")
    """An address that gets each message as JSON by a POST; better `${NAME}` from the environment."""
    slack_webhook: WebhookSecret = SecretStr("")
    """The address of an incoming webhook of Slack, or of what takes its messages, such as Mattermost."""
    email: EmailSettings = EmailSettings()
    """How e-mail is sent. Nothing is sent as long as no host is given."""


class EventSettings(_Section):
    """New: which programs get an event for each dataset that was registered."""

    webhook: WebhookSecret = SecretStr("")
    """An address that gets each event as JSON by a POST; better `${NAME}` from the environment."""
    webhook_token: HeaderSecret = SecretStr("")
    """A token that is sent with it, as `Authorization: Bearer`; better `${NAME}` from the environment."""
    topic: Text = ""
    """A topic of the brokers in the section `kafka` that gets each event as a JSON message."""

    @property
    def has_receivers(self) -> bool:
        """Whether somebody gets events."""
        return bool(self.webhook.get_secret_value() or self.topic)


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
    events: EventSettings = EventSettings()
    """New: which programs get an event for each dataset that was registered."""

    @property
    def reads_run_starts(self) -> bool:
        """Whether announcements of run starts lead to anything."""
        return self.ingestion.samples or self.monitoring.unended_run_hours > 0
