"""JSON announcements: whatever is sent, a written file or a rejection that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from streaming_data_types import serialise_pl72, serialise_wrdn

from scicat_dagster.kafka.json_announcement import announcement_schema, begins_as_json
from scicat_dagster.kafka.messages import FileWritten, Ignored, KafkaMessage, Position, Rejected, read_message
from scicat_dagster.limits import LARGEST_METADATA_BYTES
from tests.kafka.test_messages import assert_sound

POSITION = Position("odin_filewriter", 2, 41)

LEAST = {"file_path": "/data/odin/run.hdf", "job_id": "scan-7"}


def read(value: bytes, data_directory: str = "") -> object:
    return read_message(KafkaMessage(POSITION, value, 1_730_106_000_000), data_directory)


def rejected(value: object) -> Rejected:
    found = read(value if isinstance(value, bytes) else json.dumps(value).encode())
    assert isinstance(found, Rejected)
    return found


def test_a_json_object_announces_a_file_with_everything_it_says() -> None:
    sent = LEAST | {
        "instrument": "ODIN",
        "service_id": "scanner",
        "metadata": {"proposal": "443503", "nothing": None},
        "message": "done",
    }
    assert read(json.dumps(sent).encode()) == FileWritten(
        file_path="/data/odin/run.hdf",
        job_id="scan-7",
        instrument="ODIN",
        service_id="scanner",
        metadata={"proposal": "443503", "nothing": None},
        message="done",
        topic="odin_filewriter",
        partition=2,
        offset=41,
        announced_at_ms=1_730_106_000_000,
    )


def test_path_and_job_are_enough() -> None:
    found = read(json.dumps(LEAST).encode())
    assert isinstance(found, FileWritten)
    assert (found.file_path, found.job_id, found.metadata) == ("/data/odin/run.hdf", "scan-7", None)


@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_what_may_stand_before_json_is_allowed(before: bytes) -> None:
    assert isinstance(read(before + json.dumps(LEAST, indent=4).encode()), FileWritten)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"file_path": None}, "file_path"),
        ({"file_path": 7}, "file_path"),
        ({"file_path": "run.hdf"}, "file_path"),
        ({"file_path": "/data/"}, "file_path"),
        ({"file_path": "/data/a\0b"}, "file_path"),
        ({"file_path": "/elsewhere/../etc/a...b"}, "file_path"),
        ({"job_id": ""}, "job_id"),
        ({"job_id": "  "}, "job_id"),
        ({"job_id": "a\nb"}, "job_id"),
        ({"job_id": "j" * 201}, "job_id"),
        ({"job_id": 7}, "job_id"),
        ({"instrument": ["ODIN"]}, "instrument"),
        ({"service_id": None}, "service_id"),
        ({"message": "x" * 100_000}, "message"),
        ({"metadata": json.loads("[" * 150 + "]" * 150)}, "metadata"),
    ],
)
def test_a_field_that_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    found = rejected(LEAST | change)
    assert f"{field}:" in found.reason
    assert "schema announcement" in found.remedy


def test_a_path_elsewhere_may_be_the_configurations_mistake() -> None:
    found = read(json.dumps(LEAST | {"file_path": "/elsewhere/a.nxs"}).encode(), "/data")
    assert isinstance(found, Rejected)
    assert "ingestion.file_handling.data_directory" in found.remedy
    assert "messages retry" in found.remedy


@pytest.mark.parametrize("field", ["file_path", "job_id"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    assert f"{field} is missing" in rejected({key: LEAST[key] for key in LEAST if key != field}).reason


def test_a_misspelt_field_is_refused_with_the_right_name() -> None:
    reason = rejected(LEAST | {"servce_id": "scanner"}).reason
    assert "servce_id" in reason
    assert "did you mean service_id" in reason


def test_of_many_wrong_fields_some_are_named() -> None:
    found = rejected(LEAST | {f"{number}" * 50_000: 1 for number in range(9)})
    assert len(found.reason) < 10_000
    assert found.kept_value


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", '{"a": [NaN]}'])
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    value = json.dumps(LEAST)[:-1] + f', "metadata": {text}}}'
    assert "metadata" in rejected(value.encode()).reason


@pytest.mark.parametrize(
    "value",
    [b"{", b"{}}", b'{"file_path": "\xff"}', b'{"a": "\\ud800"}', b'{"a":' * 100_000, b'{"wrd"wrdn'],
)
def test_what_is_json_by_its_beginning_alone_is_rejected_whole(value: bytes) -> None:
    found = rejected(value)
    assert found.reason
    assert found.value == value


def test_metadata_too_large_for_a_runs_configuration_is_dropped_and_the_file_kept() -> None:
    found = read(json.dumps(LEAST | {"metadata": "x" * LARGEST_METADATA_BYTES}).encode())
    assert isinstance(found, FileWritten)
    assert (found.metadata, found.lacks_metadata) == (None, True)


def test_a_file_outside_the_data_directory_is_rejected() -> None:
    found = read(json.dumps(LEAST).encode(), "/other")
    assert isinstance(found, Rejected)
    assert "outside the data directory" in found.reason


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=40))
def test_no_flatbuffer_is_taken_for_json(path: str, job: str) -> None:
    assert not begins_as_json(serialise_wrdn("writer", job, False, path))
    assert not begins_as_json(serialise_pl72(job, path))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "file_path": st.text(max_size=40).map(lambda text: "/data/" + text) | _JSON,
            "job_id": st.text(max_size=20) | _JSON,
            "instrument": st.text(max_size=20) | _JSON,
            "service_id": st.text(max_size=20) | _JSON,
            "metadata": _JSON,
            "message": st.text(max_size=20) | _JSON,
        },
    )
)
@example({**LEAST, "metadata": 10**400})
def test_no_object_raises_or_leaves_the_data_directory(sent: dict[str, Any]) -> None:
    found = read(json.dumps(sent).encode(), "/data")
    assert not isinstance(found, Ignored)
    assert_sound(found, "/data")


@given(st.binary(max_size=300))
def test_no_bytes_raise(value: bytes) -> None:
    assert_sound(read(b"{" + value))


@given(_JSON)
def test_metadata_arrives_as_it_was_sent(metadata: object) -> None:
    text = json.dumps(LEAST | {"metadata": metadata})
    found = read(text.encode())
    if isinstance(found, FileWritten):
        assert json.dumps(found.metadata) == json.dumps(metadata)
    else:
        assert isinstance(found, Rejected)
        assert "NaN" in text or "Infinity" in text or "\\ud" in text


def test_the_json_schema_has_the_meaning_of_each_field() -> None:
    made = announcement_schema()
    assert made["required"] == ["file_path", "job_id"]
    assert made["additionalProperties"] is False
    assert all(field["description"] for field in made["properties"].values())
