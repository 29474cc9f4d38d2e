"""Which runs are overdue, and what is said of their files."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scicat_dagster.kafka.started_runs import KEPT, OpenRun
from scicat_dagster.usecases.unended_runs import UNKNOWN, OnDisk, UnendedRun, looked_at, overdue, unended

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LONGEST = timedelta(hours=2)


def run(ago: timedelta, file: str = "/data/run.hdf") -> OpenRun:
    return OpenRun(job_id="job", file=file, started=NOW - ago, expected_end=NOW - ago)


@pytest.mark.parametrize(
    ("ago", "is_late"),
    [
        (timedelta(hours=1), False),
        (LONGEST, False),
        (timedelta(hours=3), True),
        (-timedelta(hours=3), False),
        (KEPT, False),
    ],
)
def test_a_run_is_overdue_from_the_configured_time_on_until_it_is_forgotten(
    ago: timedelta, is_late: bool
) -> None:
    assert bool(overdue([run(ago)], LONGEST, NOW)) is is_late


def test_a_run_whose_file_still_grows_is_not_named() -> None:
    late = run(timedelta(days=3))
    growing = OnDisk(state="there", size=1, modified=NOW - timedelta(hours=1))
    resting = growing.model_copy(update={"modified": NOW - timedelta(hours=3)})

    assert unended([late], {late.file: growing}, LONGEST, NOW) == ()
    assert [each.run for each in unended([late], {late.file: resting}, LONGEST, NOW)] == [late]


def test_what_lies_on_disk_is_told(tmp_path: Path) -> None:
    there = tmp_path / "there.hdf"
    there.write_bytes(b"123")
    os.utime(there, (1_700_000_000, 1_700_000_000))
    paths = [str(there), str(tmp_path / "not.hdf"), str(there / "below"), f"{tmp_path}/{'x' * 300}"]

    found = looked_at(paths)

    modified = datetime.fromtimestamp(1_700_000_000, UTC)
    assert found[paths[0]] == OnDisk(state="there", size=3, modified=modified)
    assert [found[path].state for path in paths[1:]] == ["not there", "not there", "unknown"]


def test_what_to_do_depends_on_what_lies_on_disk() -> None:
    late = run(timedelta(days=1))
    there = OnDisk(state="there", size=17, modified=NOW)

    finished = UnendedRun(run=late, on_disk=there)
    assert "17 bytes" in finished.where
    assert "scicat-dagster ingest /data/run.hdf" in finished.remedy
    nothing = UnendedRun(run=late, on_disk=OnDisk(state="not there"))
    assert nothing.where == "no"
    assert "scicat-dagster messages dismiss job" in nothing.remedy
    assert "storage" in UnendedRun(run=late, on_disk=UNKNOWN).remedy
