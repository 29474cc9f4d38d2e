"""Announcements that somebody has as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming_data_types import deserialise_wrdn, serialise_wrdn

from scicat_dagster.errors import PermanentError
from scicat_dagster.kafka.message_file import announcement_of
from scicat_dagster.kafka.messages import FileWritten

FILE = "/data/odin/a.hdf"
MESSAGE: dict[str, Any] = {
    "service_id": "odin_filewriter",
    "job_id": "7777",
    "error_encountered": False,
    "file_name": FILE,
    "metadata": '{"run": 7}',
    "message": "",
}


def saved(folder: Path, content: Any) -> Path:
    path = folder / "m.json"
    path.write_text(json.dumps(content))
    return path


def test_what_the_decoder_gives_can_be_saved_as_an_object_or_as_a_list(tmp_path: Path) -> None:
    decoded = deserialise_wrdn(serialise_wrdn("odin_filewriter", "7777", False, FILE, '{"run": 7}'))

    as_object = announcement_of(saved(tmp_path, decoded._asdict()), FILE)
    as_list = announcement_of(saved(tmp_path, decoded), FILE)

    assert as_object == as_list
    assert (as_object.job_id, as_object.service_id) == ("7777", "odin_filewriter")
    assert as_object.metadata == {"run": 7}


def test_metadata_may_be_written_as_what_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, {**MESSAGE, "metadata": {"run": 7}})

    assert announcement_of(path, FILE).metadata == {"run": 7}


def test_a_sidecar_of_ours_is_taken_as_it_is(tmp_path: Path) -> None:
    written = FileWritten(file_path=FILE, job_id="8", topic="t", partition=1, offset=17)

    assert announcement_of(saved(tmp_path, written.model_dump(mode="json")), FILE) == written


def test_an_announcement_as_json_may_be_saved_as_it_is_sent(tmp_path: Path) -> None:
    path = saved(tmp_path, {"file_path": FILE, "job_id": "7777", "metadata": {"run": 7}})

    found = announcement_of(path, FILE)

    assert (found.job_id, found.metadata) == ("7777", {"run": 7})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**MESSAGE, "file_name": "/data/odin/b.hdf"}, "is about /data/odin/b.hdf, not /data/odin/a.hdf"),
        ({**MESSAGE, "error_encountered": True, "message": "disk full"}, "disk full"),
        ({**MESSAGE, "job_id": " "}, "no job id"),
        ({**MESSAGE, "file_name": "a.hdf"}, "not absolute"),
        ({"job_id": "7"}, "file_name"),
        ({"job_id": 7, "file_path": FILE}, "job_id:"),
        ("text", "is not one"),
        ([], "job_id"),
    ],
)
def test_what_announces_no_such_file_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as refused:
        announcement_of(saved(tmp_path, content), FILE)

    assert said in refused.value.what
    assert refused.value.remedy


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(b"\xff{")

    with pytest.raises(PermanentError, match="is not JSON"):
        announcement_of(tmp_path / "m.json", FILE)
    with pytest.raises(PermanentError, match="cannot be read"):
        announcement_of(tmp_path / "none.json", FILE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(list(MESSAGE)), inner, max_size=6)
        ),
        max_leaves=8,
    )
)
def test_whatever_the_file_holds_it_is_an_announcement_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = saved(tmp_path_factory.mktemp("any"), content)
    try:
        outcome = announcement_of(path, FILE).file_path
    except PermanentError as refused:
        outcome = refused.what
    assert outcome == FILE or str(path) in outcome
