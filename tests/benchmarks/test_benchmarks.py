"""The benchmarks of the domain run and find what they should; how fast that is says no test."""

from __future__ import annotations

import pytest

from benchmarks import domain
from benchmarks.__main__ import domain_row, heading, service_row


def test_messages_become_run_requests() -> None:
    (figure,) = domain.sensor(messages=3, rounds=1)
    assert figure.unit == "s of CPU"
    assert figure.as_json()["at_most"] == 3.0


def test_a_real_file_and_a_file_of_the_demo_become_datasets() -> None:
    figures = list(domain.metadata(files=1, rounds=1))
    assert [list(figure.details) for figure in figures] == [
        ["look at it", "extract", "describe", "build"],
        ["look at it", "extract", "describe", "build"],
    ]


def test_a_file_is_read_once_for_its_checksum() -> None:
    *compared, read = domain.checksum(megabytes=3, rounds=1)
    assert [figure.unit for figure in compared] == ["times as fast"] * 4
    assert read.is_good


def test_every_file_is_registered_while_the_memory_is_watched() -> None:
    (figure,) = domain.memory(files=10)
    assert len(figure.details["MB after each tenth"]) == 10


def test_a_huge_file_takes_no_more_memory_than_a_small_one() -> None:
    figures = list(domain.huge(gigabytes=100, hashed_gigabytes=0.01))
    assert all(figure.value < 20 for figure in figures)


@pytest.mark.parametrize(
    ("found", "row"),
    [
        (
            {"what": "a", "value": 1.5, "unit": "s", "at_most": 3.0, "is good": True},
            "| a | 1.5 s | ≤ 3 | good |",
        ),
        (
            {"what": "a", "value": 0.9, "unit": "times", "at_least": 0.95, "is good": False},
            "| a | 0.9 times | ≥ 0.95 | missed |",
        ),
        ({"what": "a", "value": 1.1, "unit": "s of CPU", "is good": True}, "| a | 1.1 s of CPU |  |  |"),
    ],
)
def test_a_figure_is_a_row(found: dict[str, object], row: str) -> None:
    assert domain_row(found) == row


def test_what_the_service_did_is_a_row_below_the_machine() -> None:
    found = {
        "what": "burst", "layout": "laptop", "files": 3, "slots": 4, "late": 0.2, "previews": True,
        "load before": 0.5, "files per minute": 7,
    }  # fmt: skip
    assert service_row(found) == (
        "| burst: 3 files, laptop layout, 4 at once, each answer 0.2 s later, with previews |"
        " files per minute: 7 |  | load before: 0.5 |"
    )
    assert "cores" in heading()
