"""Kafka messages: whatever the bytes, the answer is a written file, a rejection, or that it is ignored."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from streaming_data_types import serialise_pl72, serialise_wrdn, serialise_x5f2

from scicat_dagster.kafka.messages import (
    PL72,
    WRDN,
    FileWritten,
    Ignored,
    KafkaMessage,
    Position,
    Rejected,
    RunStarted,
    read_message,
)
from scicat_dagster.limits import LARGEST_METADATA_BYTES

POSITION = Position("odin_filewriter", 2, 41)
DATA = "/data"


def wrdn(
    file_name: str = "/data/odin/443503/raw/run.hdf",
    job_id: str = "f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
    error_encountered: bool = False,
    metadata: str | None = '{"proposal": "443503"}',
    message: str | None = "",
) -> bytes:
    content: bytes = serialise_wrdn("filewriter-1", job_id, error_encountered, file_name, metadata, message)
    return content


Answer = FileWritten | RunStarted | Ignored | Rejected


def read(value: bytes | None, data_directory: str = "") -> Answer:
    return read_message(KafkaMessage(POSITION, value, 1_730_106_000_000), data_directory)


def pl72(
    filename: str = "/data/odin/443503/raw/run.hdf",
    job_id: str = "f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
    start_time: int = 1_730_100_000_000,
    stop_time: int = 0,
) -> bytes:
    content: bytes = serialise_pl72(
        job_id=job_id,
        filename=filename,
        start_time=start_time,
        stop_time=stop_time,
        nexus_structure='{"children": []}',
        service_id="filewriter-1",
        instrument_name="ODIN",
        broker="127.0.0.1",
    )
    return content


def read_both(value: bytes | None, data_directory: str = "") -> Answer:
    """The answer where run starts are read as well."""
    return read_message(KafkaMessage(POSITION, value, 1_730_106_000_000), data_directory, (WRDN, PL72))


def started(value: bytes, data_directory: str = "") -> RunStarted:
    found = read_both(value, data_directory)
    assert isinstance(found, RunStarted)
    return found


def written(value: bytes, data_directory: str = "") -> FileWritten:
    found = read(value, data_directory)
    assert isinstance(found, FileWritten)
    return found


def rejected(value: bytes | None, data_directory: str = "") -> Rejected:
    found = read(value, data_directory)
    assert isinstance(found, Rejected)
    return found


def assert_sound(found: object, data_directory: str = "") -> None:
    """What must hold of every answer, however broken the message was."""
    assert isinstance(found, FileWritten | RunStarted | Ignored | Rejected)
    if isinstance(found, FileWritten | RunStarted):
        path = PurePosixPath(found.file_path)
        assert path.is_absolute()
        assert "\0" not in found.file_path
        assert ".." not in path.parts
        assert str(path) == found.file_path
        assert found.job_id.strip()
        assert path.is_relative_to(data_directory or "/")
        json.dumps(found.model_dump(mode="json"), allow_nan=False)
        # As it is stored between the ops of a run.
        assert type(found).model_validate_json(found.model_dump_json()) == found
    elif isinstance(found, Rejected):
        assert found.reason
        assert found.remedy


def test_a_finished_file_is_announced_with_everything_the_message_says() -> None:
    assert read(wrdn(message="done")) == FileWritten(
        file_path="/data/odin/443503/raw/run.hdf",
        job_id="f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
        service_id="filewriter-1",
        metadata={"proposal": "443503"},
        message="done",
        topic="odin_filewriter",
        partition=2,
        offset=41,
        announced_at_ms=1_730_106_000_000,
    )


def test_the_position_is_written_as_one_text() -> None:
    assert written(wrdn()).position == POSITION
    assert str(POSITION) == "odin_filewriter:2:41"


def test_positions_are_ordered_and_do_not_change() -> None:
    assert Position("a", 1, 9) < Position("a", 2, 0) < Position("b", 0, 0)
    with pytest.raises(FrozenInstanceError):
        POSITION.offset = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, None),
        ("", None),
        ('{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        ('"text"', "text"),
        ("5", 5),
        ("not json", "not json"),
        ("{broken", "{broken"),
        # JSON knows no such numbers, and neither do those who read a run's configuration.
        ('{"a": NaN}', {"a": None}),
        ("[Infinity, -Infinity]", [None, None]),
        ('{"name": "Könnecke"}', {"name": "Könnecke"}),
    ],
)
def test_metadata_is_its_json_or_else_its_text(metadata: str | None, expected: object) -> None:
    assert written(wrdn(metadata=metadata)).metadata == expected


@pytest.mark.parametrize(
    "metadata",
    [
        "[1e999]",
        '{"a": "\\ud800"}',
        '{"\\udc00": 1}',
        "[" * 300 + "]" * 300,
        "[" * 100_000 + "]" * 100_000,
        "9" * 5000,
    ],
    ids=["beyond a double", "half a character", "half a character as key", "deep", "deeper", "digits"],
)
def test_metadata_that_is_json_in_name_only_loses_no_file(metadata: str) -> None:
    found = read(wrdn(metadata=metadata))
    assert isinstance(found, FileWritten)
    assert_sound(found)


def test_a_tombstone_is_rejected() -> None:
    found = rejected(None)
    assert "tombstone" in found.reason
    assert found.value is None
    assert found.position == POSITION


def test_other_kinds_of_message_are_ignored_by_their_id() -> None:
    assert read(serialise_pl72("job", "/data/run.hdf")) == Ignored("pl72")
    status = serialise_x5f2("writer", "1.0", "writer-1", "host", 7, 5000, "{}")
    assert read(status) == Ignored("x5f2")


@pytest.mark.parametrize(
    "value", [b"", b"wrdn", b"1234567", b"....    ....", b"\0" * 20, b"1234\xe9\xe8\xe7\xe6"]
)
def test_what_has_no_schema_id_is_rejected_whole(value: bytes) -> None:
    found = rejected(value)
    assert "no schema id" in found.reason
    assert found.value == value


def test_a_message_that_breaks_off_is_rejected_whole() -> None:
    value = wrdn()[:12]
    found = rejected(value)
    assert "broken wrdn" in found.reason
    assert "backfill" in found.remedy
    assert found.value == value


def test_a_file_writer_that_failed_is_a_rejection_with_its_words_and_its_file() -> None:
    found = rejected(wrdn(error_encountered=True, message="disk full"))
    assert "disk full" in found.reason
    assert found.file_path == "/data/odin/443503/raw/run.hdf"


def test_a_file_writer_that_failed_without_a_word_is_a_rejection_that_says_so() -> None:
    assert "does not say why" in rejected(wrdn(error_encountered=True, message=None)).reason


@pytest.mark.parametrize("job_id", ["", "   ", "\x00", "job\x07", "j" * 201, "a\u2028b"])
def test_a_job_id_that_is_none_is_rejected(job_id: str) -> None:
    assert "job id" in rejected(wrdn(job_id=job_id)).reason


def test_the_longest_job_id_is_accepted() -> None:
    assert written(wrdn(job_id="j" * 200)).job_id == "j" * 200


@pytest.mark.parametrize(
    "file_name",
    [
        "", "run.hdf", "data/run.hdf", "../run.hdf", "/data/..", "/data/run.hdf\0",
        "/data/a\nb.hdf", "/", "/data/", "/data/a...b.hdf", "/data/" + "x" * 256, "/data" + "/x" * 2100, "file:///data/run.hdf",
    ],
)  # fmt: skip
def test_a_path_that_could_mean_two_things_is_rejected(file_name: str) -> None:
    found = rejected(wrdn(file_name))
    assert "path" in found.reason
    assert found.value is not None


@pytest.mark.parametrize(
    "file_name",
    ["/data/my run #1 100%.hdf", "/data/Über/试验.nxs", "/data/a'b\"c.hdf", "/data/.hidden/..x.nxs"],
)
def test_spaces_signs_and_every_script_are_allowed_in_a_path(file_name: str) -> None:
    assert written(wrdn(file_name)).file_path == file_name


def test_one_file_has_one_spelling() -> None:
    assert written(wrdn("//data/./odin//run.hdf")).file_path == "/data/odin/run.hdf"


@pytest.mark.parametrize("file_name", ["/etc/run.hdf", "/data2/run.hdf", "/dat/run.hdf"])
def test_a_file_outside_the_data_directory_is_rejected(file_name: str) -> None:
    assert "outside the data directory" in rejected(wrdn(file_name), "/data").reason


@pytest.mark.parametrize("data_directory", ["/data", "/data/", "/data/./x/..", "/"])
def test_a_file_inside_the_data_directory_is_accepted(data_directory: str) -> None:
    assert written(wrdn("/data/run.hdf"), data_directory).file_path == "/data/run.hdf"


def test_metadata_too_large_for_a_runs_configuration_is_dropped_and_the_message_kept() -> None:
    largest = written(wrdn(metadata="x" * LARGEST_METADATA_BYTES))
    assert (largest.metadata, largest.lacks_metadata) == ("x" * LARGEST_METADATA_BYTES, False)
    for text in ("x" * (LARGEST_METADATA_BYTES + 1), "ö" * (LARGEST_METADATA_BYTES // 2 + 1)):
        found = written(wrdn(metadata=text))
        assert (found.metadata, found.lacks_metadata) == (None, True)


def test_a_path_that_climbs_is_normalised() -> None:
    assert written(wrdn("/data/odin/../dream/run.hdf"), "/data").file_path == "/data/dream/run.hdf"
    assert "outside the data directory" in rejected(wrdn("/data/../etc/passwd"), "/data").reason


VALID = wrdn(DATA + "/odin/run.hdf", message="ok")


@pytest.mark.parametrize("length", range(len(VALID)))
def test_no_truncation_raises_or_leaves_the_data_directory(length: int) -> None:
    assert_sound(read(VALID[:length], DATA), DATA)


def test_no_flipped_bit_raises_or_leaves_the_data_directory() -> None:
    for position in range(len(VALID)):
        for bit in range(8):
            flipped = bytearray(VALID)
            flipped[position] ^= 1 << bit
            assert_sound(read(bytes(flipped), DATA), DATA)


@settings(max_examples=400)
@given(position=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255), cut=st.integers(0, 8))
def test_no_corrupted_byte_raises_or_leaves_the_data_directory(position: int, byte: int, cut: int) -> None:
    value = bytearray(VALID)
    value[position] = byte
    assert_sound(read(bytes(value[: len(value) - cut]), DATA), DATA)


@given(st.binary(max_size=300))
@example(b"\0\0\0\0wrdn")
@example(b"\xff" * 4 + b"wrdn" + b"\xff" * 40)
def test_no_bytes_raise(value: bytes) -> None:
    assert_sound(read(value))
    assert_sound(read(b"\x10\0\0\0wrdn" + value))


@given(
    file_name=st.text(max_size=40) | st.text(max_size=40).map(lambda text: "/data/" + text),
    job_id=st.text(max_size=20),
    metadata=st.none() | st.text(max_size=40),
    failed=st.booleans(),
)
def test_no_field_raises_or_leaves_the_data_directory(
    file_name: str, job_id: str, metadata: str | None, failed: bool
) -> None:
    value = wrdn(file_name, job_id, failed, metadata)
    assert_sound(read(value, DATA), DATA)
    if failed:
        assert isinstance(read(value, DATA), Rejected)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
def test_json_metadata_arrives_as_it_was_sent(metadata: object) -> None:
    found = written(wrdn(metadata=json.dumps(metadata, allow_nan=True)))
    if "Infinity" not in json.dumps(metadata):
        assert found.metadata == metadata
    assert_sound(found)


@given(st.binary(max_size=40), st.integers(0, 5))
def test_the_answer_depends_on_the_message_alone(noise: bytes, cut: int) -> None:
    # No cursor, no clock, no earlier message: a replay after a crash must lead to the same run.
    value = VALID[: len(VALID) - cut] + noise
    first = read(value, DATA)
    read(b"something else")
    assert read(value, DATA) == first


def test_a_run_start_is_read_with_everything_that_is_needed_of_it() -> None:
    assert started(pl72(stop_time=1_730_103_600_000)) == RunStarted(
        file_path="/data/odin/443503/raw/run.hdf",
        job_id="f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
        instrument="ODIN",
        service_id="filewriter-1",
        started_at_ms=1_730_100_000_000,
        stops_at_ms=1_730_103_600_000,
        topic="odin_filewriter",
        partition=2,
        offset=41,
        announced_at_ms=1_730_106_000_000,
    )


def test_files_are_announced_as_before_where_run_starts_are_read() -> None:
    assert read_both(wrdn()) == read(wrdn())
    assert read_both(serialise_x5f2("writer", "1.0", "writer-1", "host", 7, 5000, "{}")) == Ignored("x5f2")


@pytest.mark.parametrize("job_id", ["", "   ", "\x00", "j" * 201])
def test_a_run_start_without_an_identity_is_rejected(job_id: str) -> None:
    found = read_both(pl72(job_id=job_id))
    assert isinstance(found, Rejected)
    assert "job id" in found.reason


def test_a_run_start_that_breaks_off_is_rejected_whole() -> None:
    found = read_both(pl72()[:12])
    assert isinstance(found, Rejected)
    assert "broken pl72" in found.reason
    assert found.value == pl72()[:12]


def test_a_run_start_may_name_its_file_within_the_data_directory() -> None:
    assert started(pl72("odin/run.hdf"), "/data/").file_path == "/data/odin/run.hdf"


@pytest.mark.parametrize(("filename", "data"), [("odin/run.hdf", ""), ("", "/data"), ("../run.hdf", "/data")])
def test_a_run_start_whose_file_could_be_anywhere_is_rejected(filename: str, data: str) -> None:
    found = read_both(pl72(filename), data)
    assert isinstance(found, Rejected)
    assert "path" in found.reason


@pytest.mark.parametrize("moment", [0, 2**63, 2**64 - 1, 253_402_300_800_000])
def test_a_date_that_is_none_is_left_out(moment: int) -> None:
    found = started(pl72(start_time=moment, stop_time=moment))
    assert (found.started_at_ms, found.stops_at_ms) == (None, None)


def test_a_rejected_message_says_which_job_is_over() -> None:
    assert rejected(wrdn(job_id="one", error_encountered=True)).ended_job_id == "one"
    assert rejected(wrdn("/elsewhere/run.hdf", job_id="one"), "/data").ended_job_id == "one"
    assert rejected(wrdn(job_id="")).ended_job_id == ""
    found = read_both(pl72("/elsewhere/run.hdf"), "/data")
    assert isinstance(found, Rejected)
    assert found.ended_job_id == ""


VALID_START = pl72(DATA + "/odin/run.hdf")


@pytest.mark.parametrize("length", range(0, len(VALID_START), 3))
def test_no_truncated_run_start_raises_or_leaves_the_data_directory(length: int) -> None:
    assert_sound(read_both(VALID_START[:length], DATA), DATA)


@settings(max_examples=400)
@given(position=st.integers(0, len(VALID_START) - 1), byte=st.integers(0, 255), cut=st.integers(0, 8))
def test_no_corrupted_run_start_raises_or_leaves_the_data_directory(
    position: int, byte: int, cut: int
) -> None:
    value = bytearray(VALID_START)
    value[position] = byte
    assert_sound(read_both(bytes(value[: len(value) - cut]), DATA), DATA)


@given(st.binary(max_size=300))
@example(b"\xff" * 40)
def test_no_bytes_raise_as_a_run_start(value: bytes) -> None:
    assert_sound(read_both(b"\x10\0\0\0pl72" + value))


@given(
    filename=st.text(max_size=40) | st.text(max_size=40).map(lambda text: "/data/" + text),
    job_id=st.text(max_size=20),
    moments=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)
def test_no_field_of_a_run_start_raises_or_leaves_the_data_directory(
    filename: str, job_id: str, moments: tuple[int, int]
) -> None:
    assert_sound(read_both(pl72(filename, job_id, *moments), DATA), DATA)
