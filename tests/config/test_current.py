"""The configuration file as it is in force: read anew when it changed, and the last good one if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scicat_dagster.config.current import RESTART_KEYS, CurrentConfiguration
from scicat_dagster.config.loading import load_configuration

SECRET = "pa55word-nobody-may-see"
GOOD = {"scicat": {"host": "https://scicat.example.org/api/v3", "token": "${TOKEN}"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "config.yml"
    found.write_text(yaml.safe_dump(GOOD))
    return found


@pytest.fixture
def current(path: Path) -> CurrentConfiguration:
    return CurrentConfiguration(load_configuration(path, {"TOKEN": SECRET}))


def test_what_changes_on_disk_is_in_force(path: Path, current: CurrentConfiguration) -> None:
    before = current.read()

    path.write_text(yaml.safe_dump({**GOOD, "ingestion": {"dry_run": True}}))

    now = current.read()
    assert (before.settings.ingestion.dry_run, now.settings.ingestion.dry_run) == (False, True)
    assert now.version.hash != before.version.hash
    assert now.settings.scicat.token.get_secret_value() == SECRET
    assert current.notices() == ()


def test_a_file_that_was_replaced_is_read(path: Path, current: CurrentConfiguration) -> None:
    current.read()
    other = path.with_suffix(".new")
    other.write_text(yaml.safe_dump({**GOOD, "id": "odin"}))

    other.replace(path)

    assert current.read().settings.id == "odin"


def test_a_file_that_did_not_change_is_not_read_again(current: CurrentConfiguration) -> None:
    assert current.read() is current.read()


@pytest.mark.parametrize(
    "content", ["ingestion: [", "scicat: {}", "just a text", "scicat: {host: '${GONE}'}"]
)
def test_a_broken_file_leaves_the_last_good_one_in_force_and_says_so(
    path: Path, current: CurrentConfiguration, content: str
) -> None:
    before = current.read()

    path.write_text(content)

    assert current.read() is before
    assert current.broken is not None
    (notice,) = current.notices()
    assert notice.subject == "configuration"
    assert str(path) in notice.reason
    assert before.version.hash in notice.reason
    assert SECRET not in notice.reason

    path.write_text(yaml.safe_dump(GOOD))
    assert current.read().version.hash == before.version.hash
    assert current.notices() == ()


def test_a_file_that_is_gone_leaves_the_last_good_one_in_force(
    path: Path, current: CurrentConfiguration
) -> None:
    before = current.read()

    path.unlink()

    assert current.read() is before
    assert current.broken is not None


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"monitoring": {"freshness_hours": 5}}, "monitoring.freshness_hours"),
        ({"notifications": {"every_minutes": 5}}, "notifications.every_minutes"),
        ({"reconcile": {"cron": "5 5 * * *"}}, "reconcile.cron"),
        ({"retention": {"cron": "5 5 * * *"}}, "retention.cron"),
        ({"health_check": {"port": 5}}, "health_check"),
    ],
)
def test_a_key_that_needs_a_restart_is_named(
    path: Path, current: CurrentConfiguration, section: dict[str, object], key: str
) -> None:
    path.write_text(yaml.safe_dump({**GOOD, **section}))

    assert current.waiting_for_restart == (key,)
    assert key in RESTART_KEYS
    (notice,) = current.notices()
    assert key in notice.reason

    path.write_text(yaml.safe_dump(GOOD))
    assert current.notices() == ()


def test_the_last_good_version_is_the_last_that_any_process_has_read(path: Path, tmp_path: Path) -> None:
    """A process that began before the brake was pulled, and meets a broken file, brakes as well."""
    kept = tmp_path / "home" / "kept.yml"
    early = CurrentConfiguration(load_configuration(path, {"TOKEN": SECRET}), kept)
    early.read()
    path.write_text(yaml.safe_dump({**GOOD, "ingestion": {"dry_run": True}}))
    other = CurrentConfiguration(load_configuration(path, {"TOKEN": SECRET}), kept)
    braked = other.read()

    path.write_text("ingestion: [")

    now = early.read()
    assert now.settings.ingestion.dry_run
    assert now.version == braked.version
    assert (now.path, now.schemas_directory) == (braked.path, braked.schemas_directory)
    assert early.broken is not None
    # What stands in the file may be a secret.
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0


def test_a_kept_version_that_cannot_be_used_is_no_version(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.yml"
    current = CurrentConfiguration(load_configuration(path, {"TOKEN": SECRET}), kept)
    before = current.read()
    kept.write_text("nonsense")

    path.write_text("ingestion: [")

    assert current.read().version == before.version
