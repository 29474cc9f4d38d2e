"""Backup, restore and upgrade of what ``deploy/`` installs, and the two losses that no backup makes good.

In each case nothing is lost and nothing is registered twice.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak.account import listed_files
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from tests.endtoend.test_production_layout import (
    DEPLOY,
    PROGRAMS,
    REGISTERED_SECONDS,
    Layout,
    layout,
    pytestmark,
    wait_for,
)

__all__ = ["layout", "pytestmark"]


def ctl(layout: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / "ctl"), str(layout.state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def backed_up(layout: Layout) -> Path:
    """A new backup."""
    done = ctl(layout, "backup")
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1].removeprefix("Backed up: "))


def discover(layout: Layout, file: str, *arguments: str) -> str:
    """What the command says of the folder of a file."""
    config = layout.environment[CONFIGURATION_VARIABLE]
    command = [
        str(Path(sys.executable).with_name("scicat-dagster")),
        "discover",
        str(Path(file).parent),
        "--config",
        config,
    ]
    done = subprocess.run(
        [*command, *arguments], env={**os.environ, **layout.environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def state_of(layout: Layout, file: str) -> str:
    (line,) = (line for line in discover(layout, file).splitlines() if line.endswith(file))
    return line.split()[0]


def registered(layout: Layout) -> str:
    """A new file, once it is in the catalogue."""
    file = layout.write()
    see_registered(layout, [file])
    return file


def see_registered(layout: Layout, files: Sequence[str]) -> None:
    """Wait until each file is green; each is in the catalogue exactly once."""
    wait_for(lambda: all(map(layout.is_registered, files)), "the files", seconds=REGISTERED_SECONDS)
    see_nothing_twice(layout, files)


def see_nothing_twice(layout: Layout, files: Sequence[str]) -> None:
    datasets, blocks = listed_files(layout.facility.store)
    assert {file: (datasets[file], blocks[file]) for file in files} == dict.fromkeys(files, (1, 1))
    assert layout.facility.store.count_datasets() == len(datasets)


def test_a_lost_database_is_restored_and_what_is_newer_is_read_again(layout: Layout) -> None:
    before = registered(layout)
    backup = backed_up(layout)
    after = registered(layout)
    shutil.rmtree(layout.state / "database")

    done = ctl(layout, "restore", str(backup))

    assert done.returncode == 0, done.stdout + done.stderr
    assert layout.is_registered(before)
    see_registered(layout, [before, after, registered(layout)])


def test_a_backup_holds_what_a_new_machine_needs_and_is_open_to_nobody_else(layout: Layout) -> None:
    backup = backed_up(layout)

    places = json.loads((backup / "configuration.json").read_text())
    found = {place: (backup / "configuration" / name).read_bytes() for name, place in places.items()}
    config = Path(layout.environment[CONFIGURATION_VARIABLE])
    schemas = [path for path in config.parent.rglob("*.imsc.yml") if "backups" not in path.parts]
    assert found.keys() == {str(path) for path in (config, *schemas)}
    assert all(Path(place).read_bytes() == content for place, content in found.items())
    assert (backup / "environment").read_text() == (layout.state / "environment").read_text()
    opened = [path for path in [backup, *backup.rglob("*")] if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert opened == []


def test_a_backup_without_schemas_says_so_and_an_upgrade_is_refused(layout: Layout) -> None:
    config = Path(layout.environment[CONFIGURATION_VARIABLE])
    content = config.read_text()
    config.write_text("scicat: [")
    pids = {program: layout.pid(program) for program in PROGRAMS}
    try:
        backup, upgrade = ctl(layout, "backup"), ctl(layout, "upgrade", "true")
    finally:
        config.write_text(content)

    assert (backup.returncode, upgrade.returncode) == (1, 1)
    assert "no schema files" in backup.stderr
    made = Path(backup.stdout.splitlines()[-1].removeprefix("Backed up: "))
    assert list(json.loads((made / "configuration.json").read_text()).values()) == [str(config)]
    assert {program: layout.pid(program) for program in PROGRAMS} == pids


def test_an_upgrade_backs_up_installs_migrates_and_starts_again(layout: Layout, tmp_path: Path) -> None:
    before = registered(layout)
    pids = {program: layout.pid(program) for program in PROGRAMS}
    backups = set((layout.state / "backups").glob("*"))

    done = ctl(layout, "upgrade", "touch", str(tmp_path / "installed"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "installed").exists()
    assert len(set((layout.state / "backups").glob("*")) - backups) == 1
    assert all(layout.pid(program) not in (0, pid) for program, pid in pids.items())
    see_registered(layout, [before, registered(layout)])


def test_an_upgrade_that_fails_leaves_the_service_stopped_and_says_the_way_back(layout: Layout) -> None:
    before = registered(layout)

    done = ctl(layout, "upgrade", "false")

    assert done.returncode == 1
    assert not any(layout.pid(program) for program in PROGRAMS)
    (way_back,) = (line for line in done.stdout.splitlines() if line.startswith("The way back"))
    backup = way_back.split()[-1].rstrip(".`")
    again = ctl(layout, "restore", backup)
    assert again.returncode == 0, again.stdout + again.stderr
    see_registered(layout, [before, registered(layout)])


def test_without_a_backup_the_sensor_begins_where_the_group_was_and_discover_finds_the_rest(
    layout: Layout,
) -> None:
    # What is committed to the group may be a tick older than what was read.
    before, latest = registered(layout), registered(layout)
    ctl(layout, "stop", "daemon")
    meanwhile = layout.write()

    done = ctl(layout, "new-database")

    assert done.returncode == 0, done.stdout + done.stderr
    see_registered(layout, [meanwhile])
    # Dagster does not know of it any more; the catalogue does, and that is what counts.
    assert not layout.is_registered(before)
    assert state_of(layout, before) == "registered"
    see_nothing_twice(layout, [before, latest, meanwhile])


def test_a_catalogue_that_was_restored_from_an_older_backup_gets_its_datasets_again(layout: Layout) -> None:
    kept, gone = registered(layout), registered(layout)
    store = layout.facility.store
    (pid,) = (
        str(dataset["pid"])
        for dataset in store.datasets()
        for block in store.origdatablocks(str(dataset["pid"]))
        if Path(str(dataset["sourceFolder"])) / block["dataFileList"][0]["path"] == Path(gone)
    )
    store.delete_dataset(pid)
    assert (state_of(layout, kept), state_of(layout, gone)) == ("registered", "missing")

    discover(layout, gone, "--backfill")

    def is_back() -> bool:
        datasets, _ = listed_files(store)
        return datasets[gone] == 1

    wait_for(is_back, "the dataset", seconds=REGISTERED_SECONDS)
    see_registered(layout, [kept, gone])


def test_ctl_says_what_it_can_do_and_why_it_does_not(layout: Layout, tmp_path: Path) -> None:
    assert "upgrade" in ctl(layout).stderr
    assert "not a backup" in ctl(layout, "restore", str(tmp_path)).stderr
    assert "RUNNING" in ctl(layout, "status").stdout
    assert "There are no logs of nothing" in ctl(layout, "logs", "nothing").stderr
    assert ctl(layout, "logs", "database").returncode == 0
    elsewhere = subprocess.run([str(DEPLOY / "ctl"), str(tmp_path), "status"], capture_output=True, text=True)
    assert "deploy/prepare" in elsewhere.stderr
