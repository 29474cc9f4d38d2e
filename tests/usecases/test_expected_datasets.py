"""``scicat-dagster schema test``: a facility's files and schemas, compared with what it expects of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scicat_dagster.cli import main

DATA = Path(__file__).parents[1] / "data"
PROPOSAL = {"pi_firstname": "Ada", "pi_lastname": "Lovelace", "pi_email": "ada@example.org"}
INSTRUMENTS = "instruments?filter=%7B%22where%22%3A%7B%22name%22%3A%7B%22ilike%22%3A%22odin%22%7D%7D%7D"
ANSWERS = {"proposals/443503": PROPOSAL, INSTRUMENTS: [{"id": "odin-1"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tests"
    (made / "odin").mkdir(parents=True)
    shutil.copy(DATA / "small-coda.hdf", made / "odin")
    shutil.copytree(DATA, tmp_path / "schemas", ignore=lambda _, names: {n for n in names if "imsc" not in n})
    (made / "scicat.json").write_text(json.dumps(ANSWERS))
    return made


def run(folder: Path, *options: str) -> Result:
    arguments = ["schema", "test", str(folder), "--schemas", str(folder.parent / "schemas"), *options]
    return CliRunner(env={"SCICAT_INGESTOR_CONFIG": ""}).invoke(main, arguments)


def expected(folder: Path) -> Path:
    return folder / "odin" / "small-coda.hdf.expected.json"


def change_schema(folder: Path, old: str, new: str) -> None:
    path = folder.parent / "schemas" / "small-coda.imsc.yml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_update_writes_what_is_then_as_expected(folder: Path) -> None:
    before, update = run(folder), run(folder, "--update")
    again = run(folder)

    assert (before.exit_code, update.exit_code, again.exit_code) == (1, 0, 0)
    assert "not expected yet" in before.stdout
    assert again.stdout.splitlines()[-1] == "1 of 1 files as expected"
    dataset = json.loads(expected(folder).read_text())
    assert dataset["owner"] == "Ada Lovelace"
    assert dataset["pid"] == "20.500.12269/f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
    assert dataset["sourceFolder"] == "<folder>"
    assert "creationTime" not in dataset, "it is <now>"


def test_differences_are_named_field_by_field(folder: Path) -> None:
    run(folder, "--update")
    change_schema(folder, "human_name: Run Number", "human_name: Run")
    change_schema(folder, "value: ESS:CODA", "value: ESS:ODIN")

    result = run(folder)

    assert result.exit_code == 1
    assert '  creationLocation: expected "ESS:CODA", found "ESS:ODIN"' in result.stdout
    assert '  scientificMetadata.run_number.human_name: expected "Run Number", found "Run"' in result.stdout
    assert result.stdout.splitlines()[-1] == "0 of 1 files as expected"


def test_files_are_compared_where_some_are_expected(folder: Path) -> None:
    run(folder, "--update")
    dataset = json.loads(expected(folder).read_text())
    assert "origdatablock" not in dataset
    expected(folder).write_text(json.dumps(dataset | {"origdatablock": {}}))

    unexpected, _, again = run(folder), run(folder, "--update"), run(folder)

    assert unexpected.exit_code == 1
    assert "  origdatablock.odin/small-coda.hdf: listed, and not expected" in unexpected.stdout
    assert again.exit_code == 0, again.stdout
    listed = json.loads(expected(folder).read_text())["origdatablock"]["dataFileList"]
    size = (folder / "odin" / "small-coda.hdf").stat().st_size
    assert listed == [{"path": "odin/small-coda.hdf", "size": size}]


def test_each_difference_of_the_files_is_named(folder: Path) -> None:
    run(folder, "--update")
    dataset = json.loads(expected(folder).read_text())
    # As `preview` prints it, with what is another time and another owner on each machine.
    ours = {"path": "odin/small-coda.hdf", "size": 7, "time": "2026-11-01T12:00:00Z"}
    listed = [ours, {"path": "frames.h5"}]
    expected(folder).write_text(json.dumps(dataset | {"origdatablock": {"dataFileList": listed}}))

    result = run(folder)

    assert result.exit_code == 1
    size = (folder / "odin" / "small-coda.hdf").stat().st_size
    assert [line for line in result.stdout.splitlines() if "origdatablock" in line] == [
        "  origdatablock.frames.h5: expected, and not listed",
        f"  origdatablock.odin/small-coda.hdf: expected 7 bytes, found {size}",
    ]


def test_an_entry_that_only_one_of_both_has_is_one_difference(folder: Path) -> None:
    run(folder, "--update")
    dataset: dict[str, Any] = json.loads(expected(folder).read_text())
    entries = dataset["scientificMetadata"]
    number = entries.pop("run_number")["value"]
    entries["removed"] = {"value": None, "unit": "", "human_name": "Removed", "type": "string"}
    expected(folder).write_text(json.dumps(dataset))

    _, *details, last = run(folder).stdout.splitlines()

    added = f"  scientificMetadata.run_number: expected nothing, found {json.dumps(number)}"
    assert added in details
    (removed,) = [line for line in details if "removed" in line]
    assert removed.endswith(", found nothing")
    assert len(details) == 2
    assert last == "0 of 1 files as expected"


def test_another_place_is_not_a_difference(folder: Path, tmp_path: Path) -> None:
    run(folder, "--update")
    moved = tmp_path / "elsewhere" / "again" / "tests"
    shutil.copytree(folder, moved)
    shutil.copytree(folder.parent / "schemas", moved.parent / "schemas")

    assert run(moved).exit_code == 0


@pytest.mark.parametrize(("written", "read", "code"), [(1.0, 1.0 + 1e-12, 0), (1.0, 1.1, 1), (1, True, 1)])
def test_numbers_may_differ_in_their_last_digits_only(
    folder: Path, written: float, read: float, code: int
) -> None:
    change_schema(folder, "value: <run_number>\n    type: integer", f"value: [{read}]\n    type: list")
    run(folder, "--update")
    dataset: dict[str, Any] = json.loads(expected(folder).read_text())
    dataset["scientificMetadata"]["run_number"]["value"] = [written]
    expected(folder).write_text(json.dumps(dataset))

    assert run(folder).exit_code == code


def test_what_scicat_would_answer_has_to_be_there(folder: Path) -> None:
    (folder / "scicat.json").write_text("{}")

    result = run(folder, "--update")

    assert result.exit_code == 1
    assert "scicat.json has no answer for proposals/443503; add it." in result.stdout
    assert f"{folder / 'scicat.json'}: what SciCat would answer is read from there." in result.stderr
    assert not expected(folder).exists()
    (folder / "scicat.json").unlink()
    assert f"{folder / 'scicat.json'}: what SciCat would answer goes there" in run(folder).stderr


def test_what_failed_without_stopping_the_file_is_noted(folder: Path) -> None:
    (folder / "scicat.json").write_text(json.dumps({"proposals/443503": PROPOSAL}))

    result = run(folder, "--update")

    assert result.exit_code == 0
    assert f"  note: variables.instruments_data: scicat.json has no answer for {INSTRUMENTS}" in result.stdout


def test_an_expected_dataset_without_its_file_is_not_as_expected(folder: Path) -> None:
    run(folder, "--update")
    (folder / "odin" / "small-coda.hdf").unlink()

    result = run(folder)

    assert result.exit_code == 1
    assert "no such file     odin/small-coda.hdf" in result.stdout


def test_a_folder_without_files_is_not_as_expected(folder: Path) -> None:
    shutil.rmtree(folder / "odin")

    assert run(folder).exit_code == 1


@pytest.mark.parametrize("text", ["[]", "nothing", "\xff"])
@pytest.mark.parametrize("name", ["scicat.json", "odin/small-coda.hdf.expected.json"])
def test_a_broken_file_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")

    result = run(folder)

    assert result.exit_code == 1
    assert f"{folder / name} is not a JSON object" in result.output


def test_the_configuration_gives_schemas_and_defaults(folder: Path) -> None:
    change_schema(folder, "machine_name: ownerGroup", "machine_name: comment")
    config = folder.parent / "config.yml"
    config.write_text(
        "scicat: {host: 'https://scicat.example.org'}\ningestion: {schemas_directory: schemas}\n"
    )
    arguments = ["schema", "test", str(folder), "--config", str(config), "--update"]

    refused = CliRunner().invoke(main, arguments)
    accepted = CliRunner().invoke(main, [*arguments, "--set", "dataset.default_owner_group=odin"])

    assert (refused.exit_code, accepted.exit_code) == (1, 0)
    assert "  ownerGroup: " in refused.stdout
    assert json.loads(expected(folder).read_text())["ownerGroup"] == "odin"


def test_without_schemas_it_says_what_to_give(folder: Path) -> None:
    result = CliRunner(env={"SCICAT_INGESTOR_CONFIG": ""}).invoke(main, ["schema", "test", str(folder)])

    assert result.exit_code == 2
    assert "--config" in result.output


def test_an_answer_that_is_missing_is_noted_once_with_what_needs_it(folder: Path) -> None:
    (folder / "scicat.json").write_text(json.dumps({"proposals/443503": PROPOSAL}))

    shown = run(folder, "--update").stdout

    assert shown.count("has no answer for") == 1
    assert "Also affected: variables.instrument_data, variables.instrument_id" in shown


def test_one_file_is_compared_with_the_answers_of_its_folder(folder: Path) -> None:
    assert run(folder, "--update").exit_code == 0
    shutil.copy(DATA / "small-coda.hdf", folder / "odin" / "other.hdf")
    file = folder / "odin" / "small-coda.hdf"

    result = CliRunner(env={"SCICAT_INGESTOR_CONFIG": ""}).invoke(
        main, ["schema", "test", str(file), "--schemas", str(folder.parent / "schemas")]
    )

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "1 of 1 files as expected"


def test_a_folder_without_data_files_is_a_failure_that_says_what_it_has(folder: Path) -> None:
    (folder / "odin" / "small-coda.hdf").rename(folder / "odin" / "small-coda.raw")

    result = run(folder, "--update")

    assert result.exit_code == 1
    assert "*.nx5" in result.output
    assert "small-coda.raw" in result.output
