"""A drafted schema is accepted once its gaps are filled, whatever the file holds."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.config.placeholders import GAP
from scicat_dagster.dataset.fields import MANDATORY, RECOMMENDED
from scicat_dagster.demo.catalogue import CatalogueServer
from scicat_dagster.demo.measurement import plan_file
from scicat_dagster.demo.nexus import write_beginning, write_end
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.schemas.loading import read_schema_file
from scicat_dagster.schemas.models import NexusVariable, Schema
from scicat_dagster.usecases.schema_draft import WHERE_FROM, draft_schema, gaps_in

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A facility without schemas."""
    (tmp_path / "schemas").mkdir()
    configure(tmp_path, "https://scicat.invalid/api/v3")
    return tmp_path


def configure(folder: Path, host: str) -> None:
    config = {
        "scicat": {"host": host, "username": "ingestor", "password": "pwd"},
        "ingestion": {"schemas_directory": "schemas"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))


@pytest.fixture
def catalogue(folder: Path) -> Iterator[None]:
    """SciCat, which knows proposal and instrument of the real file."""
    with CatalogueServer(folder / "catalogue.sqlite") as server:
        server.store.add_instrument("ODIN")
        server.store.add_proposal(
            "443503",
            title="CODA",
            pi_firstname="Ada",
            pi_lastname="Lovelace",
            pi_email="ada@example.org",
            owner_group="ess",
        )
        configure(folder, server.api_root)
        yield


def real_file(folder: Path) -> Path:
    (folder / "raw").mkdir()
    return Path(shutil.copy(DATA / "small-coda.hdf", folder / "raw"))


def demo_file(folder: Path) -> Path:
    path = folder / "planned.nxs"
    plan = plan_file(seed=3, index=1)
    with h5py.File(path, "w") as file:
        write_beginning(file, plan)
        write_end(file, plan)
    return path


def bare_file(folder: Path) -> Path:
    path = folder / "bare.nxs"
    with h5py.File(path, "w") as file:
        file["number"] = 5
    return path


def write_draft(folder: Path, file: Path, fill: Callable[[str], str] = lambda text: text) -> Path:
    schema = folder / "schemas" / "drafted.imsc.yml"
    schema.write_text(fill(draft_schema(file)), encoding="utf-8")
    return schema


def validate(folder: Path, file: Path, *options: str) -> Result:
    return CliRunner().invoke(
        main, ["validate", str(folder / "config.yml"), "--against", str(file), *options]
    )


def filled(text: str) -> str:
    """The text with every gap filled by a value that is good for its field."""
    values = {"contactEmail": "ada@example.org", "creationTime": "2026-11-26T00:00:00Z"}
    lines = text.splitlines()
    for number in gaps_in(text):
        name = lines[number - 2].split("machine_name: ")[1]
        lines[number - 1] = lines[number - 1].replace(GAP, values.get(name, "ess"))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("make", [real_file, demo_file, bare_file])
def test_a_draft_is_accepted_after_its_gaps_are_filled(folder: Path, make: Callable[[Path], Path]) -> None:
    file = make(folder)
    schema = write_draft(folder, file)
    gaps = [f"line {number}: " for number in gaps_in(schema.read_text())]

    before = validate(folder, file, "--json")
    schema.write_text(filled(schema.read_text()))
    after = validate(folder, file, "--json")

    named = [row["what"] for row in json.loads(before.stdout)["checks"] if row["check"] == "schema"]
    assert before.exit_code == 1
    assert len(named) == len(gaps) > 0
    assert all(what.startswith(gap) and GAP in what for what, gap in zip(named, gaps, strict=True))
    assert after.exit_code == 0, after.stdout
    (found,) = json.loads(after.stdout)["files"]
    assert found["registrable"] is not False
    assert found["unresolved"] == []


@pytest.mark.usefixtures("catalogue")
def test_a_filled_draft_registers_the_real_file_with_what_scicat_knows(folder: Path) -> None:
    file = real_file(folder)
    write_draft(folder, file, filled)

    result = CliRunner().invoke(
        main, ["preview", str(file), "--config", str(folder / "config.yml"), "--json"]
    )

    shown = json.loads(result.stdout)
    assert (result.exit_code, shown["errors"]) == (0, [])
    assert [notice["subject"] for notice in shown["warnings"]] == ["configuration"]
    dataset: dict[str, Any] = shown["dataset"]
    assert dataset.keys() >= {*MANDATORY, *RECOMMENDED}
    assert (dataset["owner"], dataset["contactEmail"]) == ("Ada Lovelace", "ada@example.org")
    assert dataset["scientificMetadata"]["job_id"]["value"] == "f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
    assert "Massimiliano Novelli" in dataset["scientificMetadata"]["team_members"]["value"]


def test_logs_become_means_and_values_keep_their_units(folder: Path) -> None:
    file = demo_file(folder)
    schema = write_draft(folder, file, filled)

    text = schema.read_text()
    found = read_schema_file(schema).schema

    assert found is not None
    readings = next(
        variable
        for variable in found.variables.values()
        if isinstance(variable, NexusVariable) and variable.path.endswith("temperature_log/value")
    )
    assert readings.value_type == "float[]"
    assert "operator: mean" in text
    assert "# NXsource, float64, MW: " in text
    assert "event_id" not in text.partition("# Not used")[0]
    assert "event_id  NXevent_data, int32, " in text.partition("# Not used")[2]


def test_what_tells_measurements_apart_has_its_place_among_many_values(folder: Path) -> None:
    file = folder / "many.nxs"
    with h5py.File(file, "w") as written:
        for name, nexus_class in (
            ("entry", "NXentry"),
            ("entry/before_scan", "NXcollection"),
            ("entry/sample", "NXsample"),
        ):
            written.create_group(name).attrs["NX_class"] = nexus_class
        for number in range(200):
            written[f"entry/before_scan/motor_{number}"] = float(number)
        written["entry/sample/temperature"] = 4.2

    text = draft_schema(file)

    assert "path: /entry/sample/temperature" in text
    assert "path: /entry/before_scan/motor_0\n" in text
    assert "/entry/before_scan/motor_61 " in text.partition("# Not used")[2]


HOSTILE_NAMES = [
    "a: b", "# no comment", "line\nbreak", "- {x}", "*", "user.*", "<now>", "'", '"', "é ß 😀", "\x7f",
    "FILL_IN", "true", "2026-01-01", "%YAML", "&a", "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_whatever_a_file_holds_its_draft_is_a_schema(folder: Path, name: str) -> None:
    file = folder / "hostile.nxs"
    with h5py.File(file, "w") as made:
        entry = made.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.create_group("instrument").attrs["NX_class"] = "NXinstrument"
        entry["instrument/name"] = name
        entry["title"] = name
        group = entry.create_group(name.replace("/", ""))
        group.attrs["NX_class"] = f"NX{name}"
        group["value"] = np.arange(3.0)
        group["value"].attrs["units"] = name
        group["text"] = name
    schema = write_draft(folder, file, filled)

    result = validate(folder, file)

    assert result.exit_code == 0, schema.read_text() + result.stdout


def test_members_that_are_links_or_circles_are_listed_once(folder: Path) -> None:
    file = bare_file(folder)
    with h5py.File(file, "a") as made:
        group = made.create_group("entry")
        group["circle"] = made["/"]
        group["same"] = made["number"]
        group["soft"] = h5py.SoftLink("/number")
        group["outside"] = h5py.ExternalLink("/etc/passwd", "/")

    assert draft_schema(file).count("path: ") == 1


def test_a_file_that_cannot_be_read_has_no_draft(folder: Path) -> None:
    broken = folder / "broken.nxs"
    broken.write_bytes(b"no HDF5")
    result = CliRunner().invoke(main, ["schema", "draft", str(folder / "nowhere.nxs")])

    with pytest.raises((PermanentError, TransientError)):
        draft_schema(broken)
    assert result.exit_code == 1
    assert "nowhere.nxs" in result.output


def test_every_mandatory_and_recommended_field_says_where_it_may_come_from() -> None:
    assert WHERE_FROM.keys() == {*MANDATORY, *RECOMMENDED}


def file_of_two_entries(folder: Path, default: str = "") -> Path:
    """As those of IPNS: two histograms of one measurement, in single precision, with attributes."""
    file = folder / "two.nx5"
    with h5py.File(file, "w") as made:
        made.attrs["user"] = "EAG/RO"
        made.attrs["NX_class"] = "NXroot"
        if default:
            made.attrs["default"] = default
        for number, channels in ((1, 20), (2, 30)):
            for name, nexus_class in (
                ("", "NXentry"),
                ("/instrument", "NXinstrument"),
                ("/instrument/monochromator", "NXchopper"),
                ("/instrument/detector", "NXdetector"),
                ("/monitor1", "NXmonitor"),
            ):
                made.create_group(f"histogram{number}{name}").attrs["NX_class"] = nexus_class
            entry = made[f"histogram{number}"]
            entry["title"] = "MgB2 PDOS 8K"
            entry["run_number"] = 3701
            entry["start_time"] = "2001-02-07T08:54:21-06:00"
            entry["end_time"] = "2001-02-09T14:12:53-06:00"
            entry["instrument/name"] = "LRMECS"
            entry["instrument/monochromator/energy"] = np.float32(117.6)
            entry["instrument/monochromator/energy"].attrs.update({"units": "meV", "status": "Nominal"})
            entry["instrument/detector/polar_angle"] = np.arange(148, dtype="f4")
            entry["monitor1/data"] = np.arange(channels)
    return file


@pytest.mark.parametrize(("default", "read", "left"), [("", 1, 2), ("histogram2", 2, 1), ("nothing", 1, 2)])
def test_one_entry_is_drafted_and_the_others_are_compared(
    folder: Path, default: str, read: int, left: int
) -> None:
    text = draft_schema(file_of_two_entries(folder, default))

    assert f"path: /histogram{read}/title" in text
    assert f"path: /histogram{left}" not in text
    assert f"# Not drafted: the entry /histogram{left}. Compared with /histogram{read} it has" in text
    assert "#   other values or shapes: monitor1/data\n" in text


def test_what_a_draft_says_of_several_entries_makes_a_schema_of_each(folder: Path) -> None:
    text = draft_schema(file_of_two_entries(folder, ""))
    assert "write <entry> for histogram1 in paths" in text

    text = text.replace("/histogram1/", "/<entry>/").replace('# entries: "*"', 'entries: "*"')

    schema = Schema.model_validate(yaml.safe_load(text))
    assert schema.entries == "*"
    assert list(schema.mistakes()) == []


def file_with_links(folder: Path) -> Path:
    """A master file whose data are in another one."""
    detector = folder / "detector.h5"
    with h5py.File(detector, "w") as file:
        file["counts"] = np.arange(5)
    path = folder / "master.nxs"
    with h5py.File(path, "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        file["entry/title"] = "Scan"
        file["entry/counts"] = h5py.ExternalLink("detector.h5", "/counts")
    for written in (detector, path):
        os.utime(written, (1_600_000_000, 1_600_000_000))
    return path


def test_the_other_files_of_a_file_are_listed_by_its_draft(folder: Path) -> None:
    file = file_with_links(folder)
    text = draft_schema(file)
    assert "# The file refers to other files, which the dataset lists: detector.h5\n" in text

    schema = write_draft(folder, file, filled)
    assert "will not list" not in validate(folder, file).stdout
    schema.write_text(schema.read_text().replace("  linked: true", "  linked: false"))
    told = validate(folder, file, "--json")

    (row,) = [row for row in json.loads(told.stdout)["checks"] if "will not list" in row["what"]]
    assert row["result"] == "warning"
    assert "1 other file that the dataset will not list: detector.h5." in row["what"]


def made_of(folder: Path, file: Path, text: str) -> dict[str, Any]:
    schema = folder / "schemas" / "drafted.imsc.yml"
    schema.write_text(text, encoding="utf-8")
    shown = json.loads(
        CliRunner()
        .invoke(main, ["preview", str(file), "--config", str(folder / "config.yml"), "--json"])
        .stdout
    )
    assert shown["errors"] == []
    dataset = shown["dataset"]
    assert isinstance(dataset, dict)
    return dataset


def with_proposals(text: str) -> str:
    """The draft with all that it proposes."""
    lines, is_proposal = [], False
    for line in text.splitlines():
        is_proposal = line.startswith("  # ") and (is_proposal or line.startswith("  # Proposals:"))
        taken = is_proposal and not line.startswith("  # Proposals:")
        lines.append(f"  {line[4:]}" if taken else line)
    return "\n".join(lines) + "\n"


@pytest.mark.usefixtures("catalogue")
def test_proposals_work_when_they_are_uncommented(folder: Path) -> None:
    file = file_of_two_entries(folder)
    text = with_proposals(draft_schema(file))
    text = text.replace(f"value: {GAP}\n    operator", "value: neutron powder diffraction\n    operator")

    dataset = made_of(folder, file, filled(text))

    entries = dataset["scientificMetadata"]
    assert (entries["monitor1_counts"]["value"], entries["detector_pixels"]["value"]) == (190, 148)
    assert dataset["techniques"][0]["name"] == "neutron powder diffraction"
    assert (dataset["dataFormat"], dataset["keywords"]) == ("NeXus HDF5", ["ess"])


@pytest.mark.usefixtures("catalogue")
def test_what_a_field_holds_is_no_entry_as_well_and_numbers_are_as_they_were_written(folder: Path) -> None:
    file = file_of_two_entries(folder)

    dataset = made_of(folder, file, filled(draft_schema(file)))

    assert (dataset["runNumber"], dataset["startTime"][:10]) == ("3701", "2001-02-07")
    entries = dataset["scientificMetadata"]
    assert entries.keys() == {"monochromator_energy"}
    energy = entries["monochromator_energy"]
    assert (energy["value"], energy["unit"], energy["type"]) == (117.6, "meV", "float")


@pytest.mark.usefixtures("catalogue")
def test_an_instrument_that_scicat_does_not_know_is_one_warning_that_says_so(folder: Path) -> None:
    file = file_of_two_entries(folder)
    write_draft(folder, file, filled)

    shown = CliRunner().invoke(main, ["preview", str(file), "--config", str(folder / "config.yml")])
    live = validate(folder, file, "--live")

    (row,) = [line for line in shown.stdout.splitlines() if "LRMECS" in line and "warning" in line]
    asked = 'SciCat has no entry for instruments?filter={"where":{"name":{"ilike":"LRMECS"}}}.'
    also = "Also affected: variables.instrument_id, schema.instrumentId (instrumentId)."
    assert row == f"warning: variables.instrument_data: {asked} {also}"
    assert f"variables.instrument_data: {asked} Also affected: variables.instrument_id" in live.stdout
    assert "dataset.default_instrument_id" in live.stdout
    assert "Correct the schema" not in live.stdout


def test_a_preview_without_scicat_says_what_works_without_it(folder: Path) -> None:
    configure(folder, "http://127.0.0.1:1/api/v3")
    file = file_of_two_entries(folder)
    write_draft(folder, file, filled)

    shown = CliRunner().invoke(main, ["preview", str(file), "--config", str(folder / "config.yml"), "--json"])

    (error,) = json.loads(shown.stdout)["errors"]
    assert shown.exit_code == 1
    assert "`scicat-dagster schema test FILE`" in error["remedy"]
    assert "`scicat-dagster validate CONFIG --against FILE`" in error["remedy"]


FIRST_SCHEMA = Path(__file__).parents[2] / "docs" / "how-to" / "your-first-schema.md"


def test_the_first_page_is_short_and_its_entries_work(folder: Path) -> None:
    page = FIRST_SCHEMA.read_text(encoding="utf-8")
    constant, block = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    added = yaml.safe_load(block.replace("Histogram1", "histogram1").replace("calibration_status", "status"))
    added["variables"] |= yaml.safe_load(constant)["variables"]
    file = file_of_two_entries(folder)
    schema = write_draft(folder, file, filled)
    whole = yaml.safe_load(schema.read_text())
    extended = {**whole, **{key: whole[key] | added[key] for key in added}}
    schema.write_text(yaml.safe_dump(extended, sort_keys=False))

    result = CliRunner().invoke(
        main, ["schema", "test", str(file), "--schemas", str(schema.parent), "--update"]
    )

    assert len(page.split()) <= 1500
    assert result.exit_code == 0, result.output
    made = json.loads(file.with_name(f"{file.name}.expected.json").read_text())["scientificMetadata"]
    assert (made["incident_energy"]["value"], made["incident_energy"]["unit"]) == (117.6, "meV")
    assert made["energy_status"]["value"] == "Nominal"
    # SciCat is asked for the name that it has.
    assert "LRMECS+at+IPNS" in result.output


def test_attributes_are_among_what_is_not_used(folder: Path) -> None:
    listed = draft_schema(file_of_two_entries(folder)).partition("# Not used")[2]

    assert "#   /@user  EAG/RO\n" in listed
    assert "#   /histogram1/instrument/monochromator/energy@status  Nominal\n" in listed
    assert "NX_class" not in listed


@pytest.mark.parametrize("place", ["entry_identifier_uuid", "entry_identifier", ""])
def test_the_identifier_of_the_measurement_is_drafted_where_the_file_has_one(
    folder: Path, place: str
) -> None:
    file = folder / "run.nxs"
    with h5py.File(file, "w") as made:
        made.create_group("entry").attrs["NX_class"] = "NXentry"
        if place:
            made[f"entry/{place}"] = "f22acb1c"

    text = draft_schema(file)

    assert ("machine_name: job_id" in text) == bool(place)
    assert ("not in the file: scientificMetadata.job_id" in text) == (not place)


@pytest.mark.parametrize(("place", "operator"), [("raw", "dirname-2"), ("flat", "dirname")])
def test_the_folder_of_a_dataset_is_not_the_one_above_a_flat_one(
    folder: Path, place: str, operator: str
) -> None:
    (folder / place).mkdir()

    assert f"operator: {operator}\n" in draft_schema(bare_file(folder / place))


@pytest.mark.usefixtures("catalogue")
def test_a_stack_of_frames_has_its_monitor_and_its_number_among_the_proposals(folder: Path) -> None:
    file = folder / "stack.nxs"
    with h5py.File(file, "w") as made:
        for name, nexus_class in (
            ("entry", "NXentry"),
            ("entry/instrument", "NXinstrument"),
            ("entry/instrument/control", "NXmonitor"),
            ("entry/data", "NXdata"),
        ):
            made.create_group(name).attrs["NX_class"] = nexus_class
        made["entry/instrument/control/integral"] = np.full(10, 2.5)
        made["entry/data/frames"] = np.zeros((10, 4, 5), dtype="i4")
        made["entry/data/horizontal"] = np.arange(5)
        made["entry/data/minutes"] = np.arange(10)
    text = with_proposals(draft_schema(file)).replace(
        f"value: {GAP}\n    operator", "value: SAXS\n    operator"
    )

    entries = made_of(folder, file, filled(text))["scientificMetadata"]

    assert (entries["control_total"]["value"], entries["frames"]["value"]) == (25.0, 10)


def test_a_long_text_of_lines_is_shown_with_its_ends_of_lines_and_that_it_was_cut(folder: Path) -> None:
    file = folder / "lines.nxs"
    lines = "\n".join(f"frame_{number}.hdf" for number in range(20))
    with h5py.File(file, "w") as made:
        made["frames"] = lines
        made["frames"].attrs["sources"] = lines

    shown = [line for line in draft_schema(file).splitlines() if "frame_0.hdf" in line]

    assert len(shown) == 2
    assert all(r"frame_0.hdf\nframe_1.hdf\n" in line and line.endswith("…") for line in shown)


def test_a_file_without_a_proposal_says_that_it_is_no_constant(folder: Path) -> None:
    text = draft_schema(bare_file(folder))

    assert "not in the file: proposalId." in text
    assert "Write no constant" in text
