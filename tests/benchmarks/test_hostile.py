"""A short run over damaged files: the whole one is ``python -m benchmarks.hostile``."""

from __future__ import annotations

import pytest

from benchmarks.hostile import Case, Summary, cases, judge
from scicat_dagster.isolation import Limits

SHORT = Limits(seconds=1)
ENDLESS_SECTORS = (5, 8, 23, 24, 25, 42)
"""Of small-coda.hdf: where libhdf5 2.0.0 loops indefinitely."""


@pytest.mark.parametrize("number", ENDLESS_SECTORS)
def test_a_lost_sector_that_makes_libhdf5_loop_is_a_failure_of_this_file(number: int) -> None:
    assert judge(Case("sector", "small-coda.hdf", number), SHORT).outcome == "endless"


def test_every_other_lost_sector_is_read_or_refused() -> None:
    found = Summary(
        [
            judge(case)
            for case in cases(0, 0, ["small-coda.hdf"])
            if case.kind in {"sector", "sound"} and case.number not in ENDLESS_SECTORS
        ]
    )
    assert found.mistakes() == []
    assert {one.outcome for one in found.judged} == {"built", "permanent error"}


def test_mutated_files_are_read_or_refused() -> None:
    mutated = [case for case in cases(30, 1, []) if case.kind == "mutated"]
    assert Summary([judge(case, SHORT) for case in mutated]).mistakes() == []
