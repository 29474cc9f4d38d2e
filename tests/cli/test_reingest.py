"""``scicat-dagster reingest``: exactly the datasets that a corrected schema concerns are brought up to date.

With real files, schemas and the SciCat stand-in. What of a dataset is changed is ``test_correction``'s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from tests.corrected_schema import LONG_AGO, PASSWORD, VARIABLE, CorrectedFacility, corrected_facility


@pytest.fixture
def facility(tmp_path: Path) -> Iterator[CorrectedFacility]:
    with corrected_facility(tmp_path) as facility:
        yield facility


def run(facility: CorrectedFacility, *arguments: object, given: str | None = None) -> Result:
    result = CliRunner().invoke(
        main,
        ["reingest", *map(str, arguments), "--config", str(facility.config)],
        env={VARIABLE: PASSWORD},
        input=given,
    )
    assert PASSWORD not in result.output
    return result


def as_json(facility: CorrectedFacility, *arguments: object) -> dict[str, dict[str, Any]]:
    shown = json.loads(run(facility, *arguments, "--json").stdout)
    return {Path(file["file"]).name: file for file in shown["files"]}


def test_nothing_differs_before_anything_is_corrected(facility: CorrectedFacility) -> None:
    before = facility.store.datasets()

    result = run(facility, facility.data, "--update")

    assert result.exit_code == 0, result.output
    assert "5 up to date, 0 differs, 0 updated, 0 not registered, 0 failed" in result.stderr
    assert facility.store.datasets() == before


def test_without_update_the_differences_are_shown_and_nothing_is_changed(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()
    before = facility.store.datasets()

    result = run(facility, facility.data)

    assert result.exit_code == 3
    assert f"differs         {facility.odin[0]}" in result.stdout
    assert "scientificMetadata.run_number  443503 → 1" in result.stdout
    assert "creationTime" in result.stdout
    assert "left alone: Its value is non-deterministic." in result.stdout
    assert f"up to date      {facility.dream[0]}" in result.stdout
    assert "--update does it" in result.stderr
    assert facility.store.datasets() == before


def test_exactly_the_affected_datasets_are_repaired_and_edits_survive(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()
    edited = {
        "datasetName": "The good one",
        "keywords": ["good"],
        "description": "Look at this.",
        "isPublished": True,
        "scientificMetadata": {"remark": {"value": "mine", "unit": ""}},
    }
    for path in (facility.odin[1], facility.dream[1]):
        facility.edit(path, **edited)
    untouched = [facility.dataset(path) for path in facility.dream]

    result = run(facility, facility.data, "--update")

    assert result.exit_code == 0, result.output
    assert "2 up to date, 0 differs, 3 updated" in result.stderr
    assert [facility.run_number(path) for path in facility.odin] == [1, 2, 3]
    assert [facility.dataset(path) for path in facility.dream] == untouched
    kept = facility.dataset(facility.odin[1])
    for name in ("datasetName", "keywords", "description", "isPublished"):
        assert kept[name] == edited[name]
    assert kept["scientificMetadata"]["remark"] == {"value": "mine", "unit": ""}
    # The announcement is no longer at hand; it was kept beside the file.
    assert kept["scientificMetadata"]["announced_by"]["value"] == "writer-1"
    again = run(facility, facility.data, "--update")
    assert "5 up to date" in again.stderr
    assert again.exit_code == 0


def test_a_folder_without_data_files_is_not_silent(facility: CorrectedFacility) -> None:
    folder = facility.data / "lrmecs"
    folder.mkdir()
    (folder / "lrcs3701.raw").write_bytes(b"")

    result = run(facility, folder)

    assert "1 file with other names: lrcs3701.raw" in result.stderr
    shown = json.loads(run(facility, folder, "--json").stdout)
    assert shown["nothing_found"][0]["names"] == ["lrcs3701.raw"]


def test_a_field_is_touched_when_somebody_asks_for_it(facility: CorrectedFacility) -> None:
    path = facility.odin[0]
    facility.edit(path, keywords=["good"], datasetName="The good one")

    assert run(facility, path, "--update", "--also", "keywords").exit_code == 0

    assert facility.dataset(path)["keywords"] == ["neutrons"]
    assert facility.dataset(path)["datasetName"] == "The good one"


def test_an_entry_that_is_in_no_schema_any_more_is_removed_on_request(facility: CorrectedFacility) -> None:
    path = facility.odin[0]
    facility.edit(path, scientificMetadata={"old": {"value": 1, "unit": ""}})

    shown = run(facility, path, "--update", "--also", "scientificMetadata.old")
    again = run(facility, path, "--update", "--also", "scientificMetadata.old")

    assert "scientificMetadata.old" in shown.stdout
    assert "old" not in facility.dataset(path)["scientificMetadata"]
    assert "--also scientificMetadata.old: no dataset differs in it." in again.stderr


def test_only_the_files_of_a_schema_or_an_instrument(facility: CorrectedFacility) -> None:
    assert set(as_json(facility, facility.data, "--schema", "schema-odin")) == {"1.nxs", "2.nxs", "3.nxs"}
    assert set(as_json(facility, facility.data, "--schema", "Dream")) == {"4.nxs", "5.nxs"}
    assert set(as_json(facility, facility.data, "--instrument", "DREAM")) == {"4.nxs", "5.nxs"}


def test_files_can_be_given_in_a_list(facility: CorrectedFacility, tmp_path: Path) -> None:
    listed = tmp_path / "files.txt"
    listed.write_text(f"{facility.odin[0]}\n\n{facility.dream[0]}\n{facility.odin[0]}\n")

    assert set(as_json(facility, "--from", listed)) == {"1.nxs", "4.nxs"}
    assert str(facility.odin[2]) in run(facility, "--from", "-", given=f"{facility.odin[2]}\n").stdout


def test_json_holds_the_differences_whole(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()

    shown = as_json(facility, facility.odin[0])["1.nxs"]

    assert shown["state"] == "differs"
    assert shown["pid"] == facility.dataset(facility.odin[0])["pid"]
    changes = {change["field"]: change for change in shown["changes"]}
    assert changes["scientificMetadata.run_number"] == {
        "field": "scientificMetadata.run_number",
        "in_catalogue": {"value": 443503},
        "from_file": {"value": 1},
        "kind": "change",
        "reason": "",
    }


def test_a_file_that_changed_since_fails_and_the_others_are_done(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()
    changed = facility.odin[1]
    with h5py.File(changed, "a") as file:
        file["entry/run_number"][()] = 77
    os.utime(changed, (LONG_AGO, LONG_AGO))

    result = run(facility, facility.data, "--update")

    assert result.exit_code == 1
    assert "it has changed since" in result.stdout
    assert "3 updated" not in result.stderr
    assert "2 updated, 0 not registered, 1 failed" in result.stderr
    assert [facility.run_number(path) for path in facility.odin] == [1, 443503, 3]


def test_a_damaged_file_fails_and_the_others_are_done(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()
    damaged = facility.odin[0]
    with h5py.File(damaged) as file:
        root = h5py.h5o.get_info(file["/"].id).addr
    content = bytearray(damaged.read_bytes())
    # The object header of the root group, without anything that says that it is a group.
    content[root + 16] = 0
    damaged.write_bytes(content)
    os.utime(damaged, (LONG_AGO, LONG_AGO))

    result = run(facility, facility.data, "--update")

    assert "its root group cannot be read" in result.stdout
    assert "2 updated, 0 not registered, 1 failed" in result.stderr


def test_a_file_that_is_not_registered_is_said_to_be_so(facility: CorrectedFacility) -> None:
    new = facility.write_file("odin", 9)

    result = run(facility, new, "--update")

    assert result.exit_code == 0
    assert f"not registered  {new}" in result.stdout
    assert facility.store.count_datasets() == 5


def test_a_link_is_named_and_not_followed(facility: CorrectedFacility) -> None:
    (facility.data / "odin" / "link.nxs").symlink_to(facility.odin[0])

    result = run(facility, facility.data)

    assert "link.nxs  It is a symbolic link." in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        ([], 2, "Give a file or folder"),
        (["/elsewhere/one.nxs"], 1, "outside the data directory"),
        (["/etc"], 1, "cannot be searched"),
        (["{data}", "--also", "pid"], 1, "SciCat never changes a pid"),
        (["{data}/odin/nothing.nxs"], 1, "is not there"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], exit_code: int, words: str, facility: CorrectedFacility
) -> None:
    result = run(facility, *(argument.format(data=facility.data) for argument in arguments))

    assert result.exit_code == exit_code
    assert words in result.output


def test_a_catalogue_that_is_away_fails_each_file(facility: CorrectedFacility) -> None:
    facility.server.stop()

    result = run(facility, facility.odin[0], facility.dream[0])

    assert result.exit_code == 1
    assert result.stdout.count("SciCat cannot be reached") == 2


def test_a_preview_shows_the_difference_to_what_is_registered(facility: CorrectedFacility) -> None:
    facility.correct_the_schema()
    arguments = ["preview", str(facility.odin[0]), "--config", str(facility.config)]

    text = CliRunner().invoke(main, arguments, env={VARIABLE: PASSWORD})
    shown = json.loads(CliRunner().invoke(main, [*arguments, "--json"], env={VARIABLE: PASSWORD}).stdout)

    assert f"It is registered as {facility.dataset(facility.odin[0])['pid']}." in text.stdout
    assert "scientificMetadata.run_number: 443503 → 1" in text.stdout
    assert text.exit_code == 0
    fields = [change["field"] for change in shown["difference"]["changes"] if change["kind"] == "change"]
    assert fields == ["scientificMetadata.run_number"]
