"""The configuration file: every key, its default, the environment in it, and mistakes without secrets."""

from __future__ import annotations

import hashlib
import pickle
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scicat_dagster.config.loading import Configuration, ConfigurationError, load_configuration
from scicat_dagster.config.models import ApiEndpoints, FileHandlingSettings, ScicatSettings, Settings

SECRET = "hunter2-correct-horse"

EVERY_KEY = """
nexus_file: /data/example.nxs
done_writing_message_file: /data/example.json
config_file: config.yml
id: our-ingestor
dataset:
  allow_dataset_pid: false
  generate_dataset_pid: true
  dataset_pid_prefix: "20.500.99999"
  default_instrument_id: instrument-1
  default_proposal_id: "123456"
  default_owner_group: staff
  default_access_groups: [visitors, readers]
ingestion:
  dry_run: true
  schemas_directory: our-schemas
  fallback_schema_file_path: ess-fallback
  check_if_dataset_exists_by_pid: false
  check_if_dataset_exists_by_metadata: false
  check_if_dataset_exists_by_metadata_key: run_id
  offline_ingestor_executable: [python, ingest.py]
  max_offline_ingestors: 4
  offline_ingestors_wait_time: 10
  file_handling:
    compute_file_stats: false
    compute_file_hash: false
    file_hash_algorithm: sha256
    save_file_hash: false
    hash_file_extension: sha
    ingestor_files_directory: ../elsewhere
    message_to_file: false
    message_file_extension: wrdn.json
    file_path_type: absolute
    data_directory: /data
    data_file_open_max_tries: 5
    data_file_open_retry_delay: [1, 2.5]
kafka:
  topics: [odin_filewriter, dream_filewriter]
  group_id: ingestor
  bootstrap_servers: [broker-1:9092, broker-2:9092]
  security_protocol: sasl_ssl
  sasl_mechanism: SCRAM-SHA-256
  sasl_username: reader
  sasl_password: hunter2-correct-horse
  ssl_ca_location: /etc/ssl/ca.pem
  individual_message_commit: false
  enable_auto_commit: false
  auto_offset_reset: latest
logging:
  verbose: true
  file_log: true
  file_log_base_name: ingestor
  file_log_timestamp: true
  logging_level: DEBUG
  log_message_prefix: SFI
  system_log: true
  system_log_facility: mail
  graylog: true
  graylog_host: graylog.example.org
  graylog_port: "12201"
  graylog_facility: scicat.ingestor
scicat:
  host: https://scicat.example.org/api/v3
  token: hunter2-correct-horse
  username: ingestor
  password: hunter2-correct-horse
  additional_headers: {X-Key: hunter2-correct-horse}
  timeout: 12
  stream: false
  verify: false
  health_endpoint: healthy
  api_endpoints:
    datasets: Datasets
    proposals: Proposals
    origdatablocks: OrigDatablocks
    instruments: Instruments
    samples: Samples
health_check:
  host: 0.0.0.0
  port: 9999
"""

SMALLEST = "scicat: {host: 'https://scicat.example.org/api/v3'}\n"


def load(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> Configuration:
    path = folder / "config.yml"
    path.write_text(text, encoding="utf-8")
    return load_configuration(path, environment or {})


def mistakes(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text, environment)
    return " ".join(caught.value.mistakes)


def nested(place: str, value: object) -> dict[str, Any]:
    """The smallest configuration with one more value, at a place such as ``kafka.group_id``."""
    document: dict[str, Any] = yaml.safe_load(SMALLEST)
    section = document
    *sections, key = place.split(".")
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return document


def value_at(settings: Settings, place: str) -> object:
    found: object = settings
    for name in place.split("."):
        found = getattr(found, name)
    return found


def test_a_file_with_every_key_loads_without_an_unknown_key(tmp_path: Path) -> None:
    configuration = load(tmp_path, EVERY_KEY)
    assert configuration.mistakes == ()
    assert not [warning for warning in configuration.warnings if "not a known key" in warning]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("id", "our-ingestor"),
        ("dataset.allow_dataset_pid", False),
        ("dataset.generate_dataset_pid", True),
        ("dataset.dataset_pid_prefix", "20.500.99999"),
        ("dataset.default_instrument_id", "instrument-1"),
        ("dataset.default_proposal_id", "123456"),
        ("dataset.default_owner_group", "staff"),
        ("dataset.default_access_groups", ("visitors", "readers")),
        ("ingestion.dry_run", True),
        ("ingestion.schemas_directory", "our-schemas"),
        ("ingestion.fallback_schema_file_path", "ess-fallback"),
        ("ingestion.check_if_dataset_exists_by_pid", False),
        ("ingestion.check_if_dataset_exists_by_metadata", False),
        ("ingestion.check_if_dataset_exists_by_metadata_key", "run_id"),
        ("ingestion.max_offline_ingestors", 4),
        ("ingestion.file_handling.compute_file_stats", False),
        ("ingestion.file_handling.compute_file_hash", False),
        ("ingestion.file_handling.file_hash_algorithm", "sha256"),
        ("ingestion.file_handling.save_file_hash", False),
        ("ingestion.file_handling.hash_file_extension", "sha"),
        ("ingestion.file_handling.ingestor_files_directory", "../elsewhere"),
        ("ingestion.file_handling.message_to_file", False),
        ("ingestion.file_handling.message_file_extension", "wrdn.json"),
        ("ingestion.file_handling.file_path_type", "absolute"),
        ("ingestion.file_handling.data_directory", "/data"),
        ("ingestion.file_handling.data_file_open_max_tries", 5),
        ("ingestion.file_handling.data_file_open_retry_delay", (1.0, 2.5)),
        ("kafka.topics", ("odin_filewriter", "dream_filewriter")),
        ("kafka.group_id", "ingestor"),
        ("kafka.bootstrap_servers", ("broker-1:9092", "broker-2:9092")),
        ("kafka.security_protocol", "sasl_ssl"),
        ("kafka.sasl_mechanism", "SCRAM-SHA-256"),
        ("kafka.sasl_username", "reader"),
        ("kafka.ssl_ca_location", "/etc/ssl/ca.pem"),
        ("kafka.auto_offset_reset", "latest"),
        ("scicat.host", "https://scicat.example.org/api/v3"),
        ("scicat.username", "ingestor"),
        ("scicat.timeout", 12.0),
        ("scicat.timeout_seconds", 12.0),
        ("scicat.verify", False),
        ("scicat.health_endpoint", "healthy"),
        ("scicat.api_endpoints.datasets", "Datasets"),
        ("scicat.api_endpoints.proposals", "Proposals"),
        ("scicat.api_endpoints.origdatablocks", "OrigDatablocks"),
        ("scicat.api_endpoints.instruments", "Instruments"),
        ("scicat.api_endpoints.samples", "Samples"),
        ("health_check.host", "0.0.0.0"),
        ("health_check.port", 9999),
    ],
)
def test_each_key_of_the_file_is_the_setting_of_that_name(
    tmp_path: Path, place: str, expected: object
) -> None:
    assert value_at(load(tmp_path, EVERY_KEY).settings, place) == expected


def test_secrets_are_readable_where_they_are_needed(tmp_path: Path) -> None:
    settings = load(tmp_path, EVERY_KEY).settings
    assert settings.scicat.token.get_secret_value() == SECRET
    assert settings.scicat.password.get_secret_value() == SECRET
    assert settings.scicat.additional_headers["X-Key"].get_secret_value() == SECRET
    assert settings.kafka.sasl_password.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("dataset.allow_dataset_pid", True),
        ("dataset.generate_dataset_pid", False),
        ("dataset.dataset_pid_prefix", "20.500.12269"),
        ("dataset.default_instrument_id", ""),
        ("dataset.default_proposal_id", ""),
        ("dataset.default_owner_group", ""),
        ("dataset.default_access_groups", ()),
        ("ingestion.dry_run", False),
        ("ingestion.schemas_directory", "schemas"),
        ("ingestion.fallback_schema_file_path", ""),
        ("ingestion.check_if_dataset_exists_by_pid", True),
        ("ingestion.check_if_dataset_exists_by_metadata", True),
        ("ingestion.check_if_dataset_exists_by_metadata_key", "job_id"),
        ("ingestion.max_offline_ingestors", 10),
        ("ingestion.file_handling.compute_file_stats", True),
        ("ingestion.file_handling.compute_file_hash", True),
        ("ingestion.file_handling.file_hash_algorithm", "blake2b"),
        ("ingestion.file_handling.save_file_hash", True),
        ("ingestion.file_handling.hash_file_extension", "b2b"),
        ("ingestion.file_handling.ingestor_files_directory", "../ingestor"),
        ("ingestion.file_handling.message_to_file", True),
        ("ingestion.file_handling.message_file_extension", "message.json"),
        ("ingestion.file_handling.file_path_type", "relative"),
        ("ingestion.file_handling.data_file_open_max_tries", 3),
        ("ingestion.file_handling.data_file_open_retry_delay", ()),
        ("kafka.auto_offset_reset", "earliest"),
        ("scicat.timeout", 0),
        ("scicat.timeout_seconds", 30.0),
        ("scicat.verify", True),
        ("scicat.health_endpoint", "health"),
        ("scicat.api_endpoints.datasets", "datasets"),
        ("scicat.api_endpoints.origdatablocks", "origdatablocks"),
    ],
)
def test_a_key_that_is_left_out_has_its_documented_default(
    tmp_path: Path, place: str, expected: object
) -> None:
    assert value_at(load(tmp_path, SMALLEST).settings, place) == expected


def test_a_key_without_a_value_has_its_default(tmp_path: Path) -> None:
    # `dataset:` with everything below it commented out is how people switch a section off.
    settings = load(tmp_path, SMALLEST + "dataset:\ningestion:\n  schemas_directory:\n").settings
    assert settings.dataset.dataset_pid_prefix == "20.500.12269"
    assert settings.ingestion.schemas_directory == "schemas"


@pytest.mark.parametrize(
    ("tries", "delays", "expected"),
    [
        (1, (), ()),
        (3, (), (3.0, 3.0)),
        (3, (1.0,), (1.0, 1.0)),
        (5, (1.0, 2.0), (1.0, 2.0, 2.0, 2.0)),
        (2, (1.0, 2.0, 9.0), (1.0,)),
        (0, (), ()),
        (4, (-5.0, 0.5, 1000.0), (1.0, 0.5, 120.0)),
    ],
)
def test_the_last_delay_is_repeated_between_the_tries(
    tries: int, delays: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    handling = FileHandlingSettings(data_file_open_max_tries=tries, data_file_open_retry_delay=delays)
    assert handling.retry_delays() == expected


@pytest.mark.parametrize(
    "place",
    [
        "surprise",
        "dataset.surprise",
        "ingestion.surprise",
        "ingestion.file_handling.surprise",
        "kafka.surprise",
        "scicat.surprise",
        "scicat.api_endpoints.surprise",
        "health_check.surprise",
    ],
)
def test_an_unknown_key_is_warned_about_by_its_place(tmp_path: Path, place: str) -> None:
    configuration = load(tmp_path, yaml.safe_dump(nested(place, 1)))
    assert [warning for warning in configuration.warnings if warning.startswith(f"{place} ")]
    assert len(configuration.mistakes) == 1
    assert configuration.mistakes[0].startswith(f"{place} is not a known key")


def test_a_key_that_is_written_twice_is_a_mistake_and_the_last_one_counts(tmp_path: Path) -> None:
    configuration = load(
        tmp_path, "scicat:\n  host: https://s.example.org/api/v3\n  timeout: 5\n  timeout: 7\n"
    )

    (mistake,) = configuration.mistakes
    assert mistake == "scicat.timeout: is written more than once, and only the one on line 4 counts."
    assert configuration.settings.scicat.timeout_seconds == 7


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("kafak", "kafka"),
        ("scicat.tokn", "token"),
        ("ingestion.file_handling.hash_file_extention", "hash_file_extension"),
        ("scicat.api_endpoints.origdatablock", "origdatablocks"),
    ],
)
def test_a_misspelt_key_is_named_with_the_one_that_is_meant(tmp_path: Path, place: str, meant: str) -> None:
    configuration = load(tmp_path, yaml.safe_dump(nested(place, "x")))
    expected = f"{place} is not a known key and has no effect; did you mean {meant}?"
    assert configuration.mistakes == (expected,)
    assert expected in configuration.warnings


@pytest.mark.parametrize("written", ["absolut", "full", "Relative"])
def test_a_path_type_that_is_not_relative_is_absolute_and_a_mistake(tmp_path: Path, written: str) -> None:
    configuration = load(tmp_path, yaml.safe_dump(nested("ingestion.file_handling.file_path_type", written)))
    assert configuration.settings.ingestion.file_handling.file_path_type == "absolute"
    (mistake,) = configuration.mistakes
    assert "file_path_type is neither relative nor absolute, and is taken for absolute" in mistake


@pytest.mark.parametrize(
    ("written", "meant"),
    [("beginning", "earliest"), ("smallest", "earliest"), ("end", "latest"), ("largest", "latest")],
)
def test_where_to_begin_has_the_names_that_kafka_has(tmp_path: Path, written: str, meant: str) -> None:
    configuration = load(tmp_path, yaml.safe_dump(nested("kafka.auto_offset_reset", written)))
    assert configuration.settings.kafka.auto_offset_reset == meant
    assert configuration.mistakes == ()


def test_the_extension_of_the_checksum_may_be_empty(tmp_path: Path) -> None:
    configuration = load(tmp_path, yaml.safe_dump(nested("ingestion.file_handling.hash_file_extension", "")))
    assert configuration.settings.ingestion.file_handling.hash_file_extension == ""
    assert configuration.mistakes == ()


def test_keys_of_the_next_version_of_the_ingestor_are_known(tmp_path: Path) -> None:
    text = """\
scicat:
  host: https://h/api
  api_endpoints: {proposals: v3/proposals, jobs: v4/jobs, health: https://status.example.org/ok}
logging:
  graylogs: [{host: log.example.org, port: 12201, facility: scicat.ingestor}]
"""
    configuration = load(tmp_path, text)
    assert configuration.mistakes == ()
    assert configuration.settings.scicat.health_address == "https://status.example.org/ok"


@pytest.mark.parametrize(
    ("scicat", "key"),
    [
        ({"host": "https://h/catalogue", "api": "v4"}, "scicat.host"),
        ({"host": "https://h/api", "api_endpoints": {"jobs": "v5/jobs"}}, "scicat.api_endpoints.jobs"),
        (
            {"host": "https://h/api", "api_endpoints": {"datasets": "https://other/api/v3/datasets"}},
            "scicat.api_endpoints.datasets",
        ),
        ({"host": "https://h/api", "login": "ldap"}, "scicat.username"),
        ({"host": "https://h/api", "login": "oidc"}, "scicat.oidc_token_file"),
        ({"host": "https://h/api", "login": "oidc", "oidc_token_file": "token"}, "scicat.oidc_token_file"),
    ],
)
def test_an_api_or_login_that_cannot_be_is_refused(tmp_path: Path, scicat: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        load(tmp_path, yaml.safe_dump({"scicat": scicat}))


@pytest.mark.parametrize(
    ("host", "path", "version", "expected"),
    [
        ("https://h/api/v3", "datasets", 3, "https://h/api/v3/datasets"),
        ("https://h/api/v3", "datasets", 4, "https://h/api/v4/datasets"),
        ("https://h/api", "datasets", 4, "https://h/api/v4/datasets"),
        ("https://h/api", "v3/proposals", 4, "https://h/api/v3/proposals"),
        ("https://h/api/v3", "/v4/jobs", 3, "https://h/api/v4/jobs"),
        ("https://h/catalogue", "datasets", 3, "https://h/catalogue/datasets"),
    ],
)
def test_the_address_of_a_path_has_its_version(host: str, path: str, version: int, expected: str) -> None:
    assert ScicatSettings.model_validate({"host": host}).address(path, version) == expected


@pytest.mark.parametrize(
    ("host", "written", "expected"),
    [
        ("https://h/api/v3", "/api/v3/datasets", "https://h/api/v3/datasets"),
        ("https://h/api/v3/", "/api/v4/datasets", "https://h/api/v4/datasets"),
        ("https://h/api/v3", "https://h/api/v3/datasets", "https://h/api/v3/datasets"),
        ("https://h/api", "https://h/api/datasets", "https://h/api/v3/datasets"),
        ("https://h/catalogue", "/catalogue/datasets", "https://h/catalogue/datasets"),
        ("https://h", "/Datasets", "https://h/Datasets"),
        # As before: the server's root is meant only where the API's root follows.
        ("https://h/api/v3", "/datasets", "https://h/api/v3/datasets"),
        ("https://h/api/v3", "/apix/datasets", "https://h/api/v3/apix/datasets"),
    ],
)
def test_a_collection_may_be_written_from_the_servers_root(host: str, written: str, expected: str) -> None:
    settings = ScicatSettings.model_validate({"host": host, "api_endpoints": {"datasets": written}})
    assert settings.address(settings.api_endpoints.datasets) == expected


def test_the_address_of_the_health_stays_as_it_is_written() -> None:
    written = {"host": "https://h/api", "api_endpoints": {"health": "https://h/api/v3/health"}}
    assert ScicatSettings.model_validate(written).health_address == "https://h/api/v3/health"


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({}, "health"),
        ({"health_endpoint": "alive"}, "alive"),
        ({"health_endpoint": "alive", "api_endpoints": {"health": "v3/health"}}, "v3/health"),
    ],
)
def test_the_health_endpoint_has_two_names(configured: dict[str, Any], expected: str) -> None:
    settings = ScicatSettings.model_validate({"host": "https://h/api", **configured})
    assert settings.health_address == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("proposals/P1", "v3/proposals/P1"),
        ("/proposals/P1", "v3/proposals/P1"),
        ("proposals", "v3/proposals"),
        ("proposals?filter=%7B%7D", "v3/proposals?filter=%7B%7D"),
        ("instruments?filter=proposals", "instruments?filter=proposals"),
        ("samples/proposals/1", "s/proposals/1"),
        ("proposal/P1", "proposal/P1"),
        ("proposals2/P1", "proposals2/P1"),
        ("v3/proposals/P1", "v3/proposals/P1"),
        ("https://elsewhere.example.org/proposals/1", "https://elsewhere.example.org/proposals/1"),
        ("origdatablocks/fullquery", "origdatablocks/v4/fullquery"),
        # As it is configured already.
        ("origdatablocks/v4/fullquery", "origdatablocks/v4/fullquery"),
        ("", ""),
    ],
)
def test_an_address_of_a_schema_is_where_the_server_has_it(address: str, expected: str) -> None:
    endpoints = ApiEndpoints(proposals="v3/proposals", samples="s", origdatablocks="origdatablocks/v4")
    assert endpoints.resolve(address) == expected


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (SMALLEST + "logging: {graylog: true}", "logging.graylog_host is empty"),
        ("scicat: {host: 'https://h', verify: false}", "scicat.verify is false"),
        (
            "scicat: {host: 'https://h/api', api_endpoints: {samples: v4/samples}}",
            "v3/samples is asked instead",
        ),
        (SMALLEST, "neither token nor username"),
        (
            SMALLEST + "health_check: {host: 0.0.0.0, announce_token: hunter2-correct-horse}",
            "health_check.host is 0.0.0.0",
        ),
        (
            SMALLEST + "events: {webhook: 'http://h', webhook_token: hunter2-correct-horse}",
            "events.webhook begins with http://",
        ),
        (SMALLEST, "kafka.topics is empty"),
    ],
)
def test_what_is_odd_but_usable_is_a_warning_and_no_unknown_key(
    tmp_path: Path, text: str, warning: str
) -> None:
    configuration = load(tmp_path, text)
    assert [found for found in configuration.warnings if warning in found]
    assert configuration.mistakes == ()


@pytest.mark.parametrize(
    ("written", "environment", "expected"),
    [
        ("${NAME}", {"NAME": "odin"}, "odin"),
        ("pre-${NAME}-post", {"NAME": "odin"}, "pre-odin-post"),
        ("${A}${B}", {"A": "1", "B": "2"}, "12"),
        ("${NAME:-fallback}", {}, "fallback"),
        ("${NAME:-fallback}", {"NAME": ""}, "fallback"),
        ("${NAME:-fallback}", {"NAME": "odin"}, "odin"),
        ("${NAME:-}", {}, ""),
        ("${NAME:-https://h:1/x}", {}, "https://h:1/x"),
        ("$NAME", {"NAME": "odin"}, "$NAME"),
        ("${NAME}", {"NAME": "${OTHER}", "OTHER": "x"}, "${OTHER}"),
    ],
)
def test_text_may_come_from_the_environment(
    tmp_path: Path, written: str, environment: dict[str, str], expected: str
) -> None:
    text = yaml.safe_dump(nested("kafka.group_id", written))
    assert load(tmp_path, text, environment).settings.kafka.group_id == expected


def test_list_items_numbers_and_switches_may_come_from_the_environment(tmp_path: Path) -> None:
    text = (
        "scicat: {host: '${HOST}', timeout: '${TIMEOUT}', verify: '${VERIFY}', "
        "additional_headers: {X-Key: '${KEY}'}}\n"
        "kafka: {topics: ['${TOPIC}', b], bootstrap_servers: '${BROKERS}'}"
    )
    environment = {
        "HOST": "https://scicat.example.org/api/v3",
        "TIMEOUT": "7",
        "VERIFY": "false",
        "KEY": SECRET,
        "TOPIC": "a",
        "BROKERS": "one:1,two:2",
    }
    settings = load(tmp_path, text, environment).settings
    assert settings.scicat.timeout == 7
    assert settings.scicat.verify is False
    assert settings.scicat.additional_headers["X-Key"].get_secret_value() == SECRET
    assert settings.kafka.topics == ("a", "b")
    assert settings.kafka.bootstrap_servers == ("one:1", "two:2")


def test_every_variable_that_is_not_set_is_named_with_its_place(tmp_path: Path) -> None:
    text = "scicat: {host: 'https://h', token: '${SCICAT_TOKEN}'}\nkafka: {topics: ['${TOPIC}']}"
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert caught.value.mistakes == (
        "scicat.token: the environment variable SCICAT_TOKEN is not set.",
        "kafka.topics: the environment variable TOPIC is not set.",
    )
    assert str(tmp_path / "config.yml") in str(caught.value)
    assert "scicat-dagster validate" in caught.value.remedy


def test_only_the_environment_that_is_given_is_read(tmp_path: Path) -> None:
    # PATH is set wherever tests run, and must not be seen.
    assert "PATH is not set" in mistakes(tmp_path, yaml.safe_dump(nested("id", "${PATH}")))


@pytest.mark.parametrize(
    ("place", "written", "expected"),
    [
        ("id", 7, "7"),
        ("dataset.default_proposal_id", 443503, "443503"),
        ("dataset.default_owner_group", 12, "12"),
        ("dataset.default_instrument_id", 3, "3"),
        ("dataset.dataset_pid_prefix", 20.5, "20.5"),
        ("kafka.group_id", 1, "1"),
        ("kafka.sasl_username", 99, "99"),
        ("scicat.username", 99, "99"),
        ("dataset.default_access_groups", [443503, "staff"], ("443503", "staff")),
        ("dataset.default_access_groups", 443503, ("443503",)),
        ("kafka.topics", [1, "a"], ("1", "a")),
    ],
)
def test_a_number_where_text_is_meant_is_its_text(
    tmp_path: Path, place: str, written: object, expected: object
) -> None:
    document = nested(place, written)
    document["scicat"].setdefault("password", "x")
    document.setdefault("kafka", {}).setdefault("bootstrap_servers", "h:1")
    assert value_at(load(tmp_path, yaml.safe_dump(document)).settings, place) == expected


def test_a_secret_that_yaml_reads_as_a_number_is_its_text(tmp_path: Path) -> None:
    text = "scicat: {host: 'https://h', username: u, password: 12345, token: 678}"
    scicat = load(tmp_path, text).settings.scicat
    assert scicat.password.get_secret_value() == "12345"
    assert scicat.token.get_secret_value() == "678"


@pytest.mark.parametrize("written", ["a, b,c", "a,b,,c, ", ["a", "b", "c"]])
@pytest.mark.parametrize("place", ["kafka.topics", "dataset.default_access_groups"])
def test_lists_may_be_written_with_commas(tmp_path: Path, place: str, written: object) -> None:
    document = nested(place, written)
    document.setdefault("kafka", {})["bootstrap_servers"] = "x:1 , y:2"
    settings = load(tmp_path, yaml.safe_dump(document)).settings
    assert value_at(settings, place) == ("a", "b", "c")
    assert settings.kafka.bootstrap_servers == ("x:1", "y:2")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("scicat.timeout", "soon"),
        ("scicat.timeout", -1),
        ("scicat.verify", "perhaps"),
        ("scicat.host", "scicat.example.org"),
        ("scicat.host", "ftp://scicat.example.org"),
        ("scicat.host", "https:///api"),
        ("scicat.host", f"https://u:{SECRET}@scicat.example.org/api/v3"),
        ("ingestion.max_offline_ingestors", 0),
        ("ingestion.file_handling.data_file_open_max_tries", -1),
        ("ingestion.file_handling.data_file_open_retry_delay", [float("nan")]),
        ("ingestion.file_handling.file_path_type", 5),
        ("ingestion.file_handling.file_hash_algorithm", "blake99"),
        # Its digest has no length of its own, so that there is nothing to compare.
        ("ingestion.file_handling.file_hash_algorithm", "shake_128"),
        ("ingestion.file_handling.data_directory", "data"),
        ("kafka.auto_offset_reset", "middle"),
        ("kafka.topics", {"a": 1}),
        ("kafka", ["a"]),
        ("health_check.port", -1),
        ("health_check.announce_token", SECRET[:15]),
        ("events.webhook", SECRET),
    ],
)
def test_a_value_that_a_key_does_not_allow_is_refused_by_its_place(
    tmp_path: Path, place: str, value: object
) -> None:
    found = mistakes(tmp_path, yaml.safe_dump(nested(place, value)))
    assert found.startswith(f"{place}")
    assert SECRET not in found


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "kafka: {auto_offset_reset: x}\ningestion: {max_offline_ingestors: many}")
    assert "scicat: is missing." in found
    assert "kafka.auto_offset_reset" in found
    assert "ingestion.max_offline_ingestors" in found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("scicat: {host: 'https://h', username: u}", "scicat.password: is missing"),
        (SMALLEST + "kafka: {topics: [a]}", "kafka.bootstrap_servers: is missing"),
        ("scicat: {token: x}", "scicat.host: is missing"),
        (SMALLEST + "events: {topic: registered}", "kafka.bootstrap_servers: is missing"),
        (
            SMALLEST + "kafka: {topics: [a], bootstrap_servers: b}\nevents: {topic: a}",
            "events.topic: is one of kafka.topics",
        ),
    ],
)
def test_what_needs_another_key_says_which(tmp_path: Path, text: str, place: str) -> None:
    assert place in mistakes(tmp_path, text)


@pytest.mark.parametrize("algorithm", ["blake3", *sorted(hashlib.algorithms_guaranteed)])
def test_every_algorithm_of_hashlib_and_blake3_is_allowed(tmp_path: Path, algorithm: str) -> None:
    text = yaml.safe_dump(nested("ingestion.file_handling.file_hash_algorithm", algorithm))
    if algorithm.startswith("shake_"):
        assert "file_hash_algorithm" in mistakes(tmp_path, text)
    else:
        assert load(tmp_path, text).settings.ingestion.file_handling.file_hash_algorithm == algorithm


def bomb(values: str, alias: str) -> bytes:
    """Twelve levels, each nine times the one before: a few hundred bytes that mean 9^12 values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        inner = ", ".join([alias.format(f"a{level - 1}")] * 9)
        lines.append(f"a{level}: &a{level} {values.format(inner)}")
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"kafka: [", "not YAML"),
        (b"kafka: \xff\xfe", "not UTF-8"),
        (b"- a\n- b", "must hold sections"),
        (b"", "must hold sections"),
        (b"just text", "must hold sections"),
        # PyYAML does not call these a YAMLError.
        (b"id: 2024-13-45", "YAML"),
        (b"id: !!bool perhaps", "YAML"),
        (b"id: !!int many", "YAML"),
        (b"id: " + b"[" * 1000, "YAML"),
        (b"dataset: &d {inner: *d}", "anchor"),
        (bomb("[{}]", "*{}"), "aliases"),
        (bomb("{{<<: [{}]}}", "*{}"), "aliases"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason):
        load_configuration(path, {})


def test_a_missing_file_and_a_folder_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_configuration(tmp_path / "missing.yml", {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(tmp_path, {})


def test_no_secret_is_seen_in_the_settings(tmp_path: Path) -> None:
    configuration = load(tmp_path, EVERY_KEY)
    settings = configuration.settings
    for shown in (
        repr(configuration), str(configuration), repr(settings), str(settings), repr(settings.scicat),
        repr(settings.kafka), str(settings.model_dump()), settings.model_dump_json(),
        " ".join(configuration.warnings),
    ):  # fmt: skip
        assert SECRET not in shown


@pytest.mark.parametrize(
    "mistake",
    [
        "ingestion: {max_offline_ingestors: many}",
        "health_check: {port: -1}",
        "kafka: {auto_offset_reset: middle, sasl_password: hunter2-correct-horse}",
        "kafka: {sasl_password: [hunter2-correct-horse]}",
        "kafka: {sasl_password: {a: hunter2-correct-horse}}",
        "id: ${NOT_SET}",
        "dataset: hunter2-correct-horse",
        "kafka: {sasl_password: 'hunter2-correct-horse",
        "kafka: {sasl_password: hunter2-correct-horse]",
        "kafka: {sasl_password: hunter2-correct-horse: x}",
        "kafka:\n  sasl_password: @hunter2-correct-horse",
        "kafka:\n  sasl_password: %hunter2-correct-horse",
        # Passwords that begin with what means something in YAML: an alias, a tag, an anchor.
        "kafka:\n  sasl_password: *hunter2-correct-horse",
        "kafka:\n  sasl_password: !hunter2-correct-horse",
        "kafka:\n  sasl_password: &hunter2-correct-horse\n  group_id: &hunter2-correct-horse x]",
        "kafka:\n  sasl_password: !!hunter2-correct-horse x",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, mistake: str) -> None:
    planted = (
        "scicat:\n"
        "  host: https://h\n"
        f"  token: {SECRET}\n"
        "  username: u\n"
        f"  password: {SECRET}\n"
        f"  additional_headers: {{X-Key: {SECRET}}}\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, planted + mistake)
    error = caught.value
    shown = [str(error), repr(error), error.what, error.remedy, *error.mistakes, *error.details.values()]
    assert SECRET not in " ".join([*shown, *traceback.format_exception(error)])


@pytest.mark.parametrize("field", ["token: [x-{0}]", "password: {{a: {0}}}", "additional_headers: [{0}]"])
def test_no_error_about_a_secret_field_shows_its_value(tmp_path: Path, field: str) -> None:
    text = "scicat:\n  host: https://h\n  " + field.format(SECRET)
    found = mistakes(tmp_path, text)
    assert found.startswith("scicat.")
    assert SECRET not in found


def test_an_error_survives_the_way_to_another_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "kafka: {auto_offset_reset: x}")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, ConfigurationError)
    assert (str(again), again.mistakes, again.path) == (
        str(caught.value),
        caught.value.mistakes,
        caught.value.path,
    )


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "fallback.imsc.yml").touch()
    configuration = load(
        tmp_path,
        SMALLEST + "ingestion: {schemas_directory: s/t, fallback_schema_file_path: fallback.imsc.yml}",
    )
    assert configuration.schemas_directory == tmp_path / "s" / "t"
    assert configuration.fallback_schema == str(tmp_path / "fallback.imsc.yml")


@pytest.mark.parametrize(
    ("written", "expected"),
    [("ess-fallback", "ess-fallback"), ("", ""), ("/etc/f.imsc.yml", "/etc/f.imsc.yml")],
)
def test_a_fallback_that_is_no_file_beside_the_configuration_is_a_name_or_a_path(
    tmp_path: Path, written: str, expected: str
) -> None:
    text = yaml.safe_dump(nested("ingestion.fallback_schema_file_path", written))
    assert load(tmp_path, text).fallback_schema == expected


@pytest.mark.parametrize(
    ("host", "frontend", "expected"),
    [
        ("https://scicat.example.org/api/v3", "", "https://scicat.example.org"),
        ("https://scicat.example.org/api/v3/", "", "https://scicat.example.org"),
        ("https://scicat.example.org/api/v3", "https://www.example.org/", "https://www.example.org"),
    ],
)
def test_the_web_pages_are_where_the_api_is_unless_said_otherwise(
    tmp_path: Path, host: str, frontend: str, expected: str
) -> None:
    text = yaml.safe_dump({"scicat": {"host": host, "frontend": frontend}})
    settings = load(tmp_path, text).settings
    assert settings.scicat.frontend_url == expected
    assert not settings.scicat.host.endswith("/")
