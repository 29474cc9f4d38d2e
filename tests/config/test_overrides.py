"""Keys of the configuration that a command line sets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import ConfigurationError, load_configuration
from scicat_dagster.config.overrides import parse_override

FILE = "scicat: {host: http://127.0.0.1:1/api/v3, username: ingestor, password: pwd}\n"


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("ingestion.dry_run=true", ("ingestion", "dry_run"), "true"),
        ("scicat.password=a=b", ("scicat", "password"), "a=b"),
        ("id=", ("id",), ""),
        ("kafka.topics=[a, b]", ("kafka", "topics"), ["a", "b"]),
        ("kafka.options.ssl.ca.location=/x", ("kafka", "options", "ssl.ca.location"), "/x"),
        ("kafka.options={client.id: x}", ("kafka", "options"), {"client.id": "x"}),
        ("logging.graylog_host=x", ("logging", "graylog_host"), "x"),
        ("scicat.password={not closed", ("scicat", "password"), "{not closed"),
    ],
)
def test_a_key_and_its_value_are_read(text: str, path: tuple[str, ...], value: object) -> None:
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ingestion.dry_run", "has no value"),
        ("ingestion.dryrun=true", "did you mean dry_run?"),
        ("ingestoin.dry_run=true", "did you mean ingestion?"),
        ("ingestion=true", "is a section"),
        ("ingestion.dry_run.x=true", "is a key and not a section"),
        ("scicat.pass=secret", "has no key pass"),
    ],
)
def test_what_is_no_key_is_refused_without_its_value(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        parse_override(text)

    assert "secret" not in str(refused.value)


def test_what_is_set_takes_precedence_and_is_named_by_the_version(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(FILE + "ingestion: {dry_run: false, max_offline_ingestors: 3}\n")

    found = load_configuration(path, {"NAME": "word"}, dict([parse_override("ingestion.dry_run=true")]))

    assert found.settings.ingestion.dry_run is True
    assert found.settings.ingestion.max_offline_ingestors == 3
    assert "ingestion.dry_run set by hand" in str(found.version)


def test_a_placeholder_is_filled_and_a_secret_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(FILE)

    found = load_configuration(path, {"NAME": "hidden"}, dict([parse_override("scicat.password=${NAME}")]))

    assert found.settings.scicat.password.get_secret_value() == "hidden"
    assert "hidden" not in repr(found) + str(found.version)


def test_a_value_that_the_key_does_not_allow_is_said_to_be_set_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(FILE)

    with pytest.raises(ConfigurationError, match=r"ingestion.dry_run \(set by hand\): "):
        load_configuration(path, {}, dict([parse_override("ingestion.dry_run=perhaps")]))


def test_a_file_that_changes_does_not_undo_what_is_set(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(FILE)
    current = CurrentConfiguration(
        load_configuration(path, {}, dict([parse_override("ingestion.dry_run=true")]))
    )

    path.write_text(FILE + "id: changed\n")

    assert current.read().settings.id == "changed"
    assert current.read().settings.ingestion.dry_run is True
