"""The way of one file, with a file and a schema of a real facility: from the disk to the two bodies."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml
from pydantic import JsonValue

from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset.ingestion import (
    ExtractedMetadata,
    build,
    build_each,
    describe_files,
    extract_metadata,
    values_of,
)
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.identity import CompleteFile, FileChangedError
from scicat_dagster.files.reading import Read, look_at
from scicat_dagster.kafka.messages import FileWritten
from scicat_dagster.schemas.loading import SchemaCollection, load_schemas

Document = dict[str, Any]
Age = Callable[[Path, float], Path]

PID = "20.500.12269/f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
INSTRUMENTS = "instruments?filter=%7B%22where%22%3A%7B%22name%22%3A%7B%22ilike%22%3A%22odin%22%7D%7D%7D"


@dataclass
class FakeCatalogue:
    """A catalogue with one proposal, one instrument, and the samples that it is given."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    away: bool = False
    asked: list[str] = field(default_factory=list)

    def fetch(self, url: str) -> JsonValue:
        self._ask(url)
        answers: dict[str, JsonValue] = {
            "proposals/443503": {
                "pi_firstname": "Ada", "pi_lastname": "Lovelace", "pi_email": "ada@example.org",
            },
            INSTRUMENTS: [{"id": "instrument-1", "name": "ODIN"}],
        }  # fmt: skip
        if url not in answers:
            raise LookupError(f"The catalogue has no {url}.")
        return answers[url]

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        self._ask(f"samples of {proposal_id}")
        return self.samples

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise TransientError("The catalogue is away.", remedy="Wait.")


@pytest.fixture
def catalogue() -> FakeCatalogue:
    return FakeCatalogue()


@pytest.fixture
def path(tmp_path: Path, data_folder: Path, aged: Age) -> Path:
    folder = tmp_path / "odin" / "443503" / "raw"
    folder.mkdir(parents=True)
    return aged(Path(shutil.copy(data_folder / "small-coda.hdf", folder)), 3600)


@pytest.fixture
def file(path: Path) -> CompleteFile:
    return look_at(path)


@pytest.fixture
def schemas_folder(tmp_path: Path, data_folder: Path) -> Path:
    folder = tmp_path / "schemas"
    folder.mkdir()
    shutil.copy(data_folder / "small-coda.imsc.yml", folder)
    return folder


@pytest.fixture
def schemas(schemas_folder: Path) -> SchemaCollection:
    return load_schemas(schemas_folder)


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"scicat": {"host": "https://scicat.example.org/api/v3"}})


@pytest.fixture
def announcement(path: Path) -> FileWritten:
    return FileWritten(
        file_path=str(path),
        job_id="f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
        service_id="filewriter-1",
        metadata={"proposal": "443503"},
        topic="odin_filewriter",
        partition=0,
        offset=7,
    )


def test_a_real_file_and_a_real_schema_give_the_dataset_of_the_measurement(
    file: CompleteFile,
    schemas: SchemaCollection,
    catalogue: FakeCatalogue,
    settings: Settings,
    path: Path,
    announcement: FileWritten,
) -> None:
    (metadata,) = extract_metadata(file, schemas, catalogue, settings, announcement)
    files = describe_files(file, settings, announcement)
    built = build(metadata, files, settings)
    created = built.dataset.pop("creationTime")
    assert isinstance(created, str)
    assert datetime.now(UTC) - datetime.fromisoformat(created) < timedelta(minutes=5)
    assert built.dataset == {
        "pid": PID,
        "type": "raw",
        "proposalId": "443503",
        "datasetName": "odin",
        "principalInvestigator": "Ada Lovelace",
        "owner": "Ada Lovelace",
        "ownerEmail": "ada@example.org",
        "contactEmail": "ada@example.org",
        # The schema says this text, not <instrument_id>: facilities' mistakes are kept as they are.
        "instrumentId": "instrument_id",
        "creationLocation": "ESS:CODA",
        "ownerGroup": "ess_proposal_443503",
        "accessGroups": ["scientific information management systems group"],
        "sourceFolder": str(path.parents[1]),
        "isPublished": False,
        "scientificMetadata": {
            "start_time": {
                "value": "2024-10-28T09:06:41.186000+00:00",
                "unit": "",
                "human_name": "Start Time",
                "type": "date",
            },
            "end_time": {
                "value": "2024-10-28T09:18:14.376000+00:00",
                "unit": "",
                "human_name": "End Time",
                "type": "date",
            },
            "run_number": {"value": 31010, "unit": "", "human_name": "Run Number", "type": "integer"},
            "job_id": {
                "value": "f22acb1c-950b-11ef-a3ef-fa163e9aae0a",
                "unit": "",
                "human_name": "Job Id",
                "type": "string",
            },
            "acquisition_team_members": {
                "value": "Anders Pettersson, Fredrik Bolmsten, George ONeill, Jonas Petersson, "
                "Massimiliano Novelli, Matt Clarke",
                "unit": "",
                "human_name": "Acquisition Team Members",
                "type": "string",
            },
        },
    }
    assert built.notices == ()
    assert built.origdatablock["datasetId"] == PID
    listed = built.origdatablock["dataFileList"]
    assert isinstance(listed, list)
    assert [item["path"] for item in listed if isinstance(item, dict)] == [
        "raw/small-coda.hdf",
        "ingestor/small-coda.hdf.b2b",
        "ingestor/small-coda.hdf.message.json",
        "ingestor/small-coda.hdf.message.json.b2b",
    ]
    assert metadata.instrument == "ODIN"
    assert sorted(catalogue.asked) == sorted(["proposals/443503", INSTRUMENTS])


def test_nothing_is_written_on_the_way(
    file: CompleteFile, schemas: SchemaCollection, catalogue: FakeCatalogue, settings: Settings, path: Path
) -> None:
    before = path.stat().st_mtime_ns
    extracted = extract_metadata(file, schemas, catalogue, settings)
    build_each(extracted, describe_files(file, settings), settings)
    assert [entry.name for entry in path.parents[1].rglob("*")] == ["raw", "small-coda.hdf"]
    assert path.stat().st_mtime_ns == before


def test_what_a_step_gives_is_the_same_after_it_was_stored(
    file: CompleteFile, schemas: SchemaCollection, catalogue: FakeCatalogue, settings: Settings
) -> None:
    (metadata,) = extract_metadata(file, schemas, catalogue, settings)
    stored = ExtractedMetadata.model_validate_json(metadata.model_dump_json(by_alias=True))
    files = describe_files(file, settings)
    assert build(stored, files, settings) == build(metadata, files, settings)


def test_a_proposal_that_the_catalogue_does_not_have_names_every_field_that_needs_it(
    schemas: SchemaCollection, settings: Settings, path: Path, aged: Age
) -> None:
    with h5py.File(path, "a") as nexus:
        nexus["entry/experiment_identifier"][()] = b"999999"
    file = look_at(aged(path, 3600))
    (metadata,) = extract_metadata(file, schemas, FakeCatalogue(), settings)
    with pytest.raises(PermanentError, match="Mandatory fields") as caught:
        build(metadata, describe_files(file, settings), settings)
    for name in ("principalInvestigator", "owner", "contactEmail"):
        assert f"{name}: It needs <pi_" in caught.value.what
    assert "The catalogue has no proposals/999999." in caught.value.what
    assert "sourceFolder" not in caught.value.what


def test_a_catalogue_that_is_away_is_worth_another_try(
    file: CompleteFile, schemas: SchemaCollection, settings: Settings
) -> None:
    with pytest.raises(TransientError, match="away"):
        extract_metadata(file, schemas, FakeCatalogue(away=True), settings)


def test_a_file_for_which_there_is_no_schema_asks_nothing(
    tmp_path: Path, file: CompleteFile, catalogue: FakeCatalogue, settings: Settings
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PermanentError, match="No schema is for"):
        extract_metadata(file, load_schemas(empty), catalogue, settings)
    assert catalogue.asked == []


def test_a_file_that_changed_before_its_content_was_read_is_tried_again(
    tmp_path: Path,
    schema_document: Document,
    file: CompleteFile,
    catalogue: FakeCatalogue,
    settings: Settings,
    path: Path,
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    schema_document["selector"] = "nexus:/entry/instrument/name:equals:ODIN"
    (folder / "own.imsc.yml").write_text(yaml.safe_dump(schema_document))
    path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(FileChangedError):
        extract_metadata(file, load_schemas(folder), catalogue, settings)


def test_a_file_that_no_schema_selects_is_registered_with_the_fallback(
    tmp_path: Path, file: CompleteFile, catalogue: FakeCatalogue
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = Settings.model_validate(
        {
            "scicat": {"host": "https://h"},
            "dataset": {"default_owner_group": "staff"},
            # Its sourceFolder is that of the file, so that the ingestor's own files lie outside.
            "ingestion": {"file_handling": {"save_file_hash": False}},
        }
    )
    (metadata,) = extract_metadata(file, load_schemas(empty, "ess-fallback"), catalogue, settings)
    built = build(metadata, describe_files(file, settings), settings)
    assert built.dataset["datasetName"] == "small-coda.hdf"
    assert built.dataset["proposalId"] == "443503"
    assert built.dataset["ownerGroup"] == "staff"
    assert built.notices == ()


@pytest.fixture
def extract(
    tmp_path: Path,
    schema_document: Document,
    catalogue: FakeCatalogue,
    settings: Settings,
    file: CompleteFile,
    announcement: FileWritten,
) -> Callable[..., ExtractedMetadata]:
    """Extract with the smallest schema, changed; ``announced`` says whether there was a message.

    ``announcement`` changes the message.
    """
    message = announcement

    def extract_with(
        announced: bool = True, announcement: Document | None = None, **changes: Any
    ) -> ExtractedMetadata:
        told = message.model_copy(update=announcement or {})
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        text = yaml.safe_dump({**schema_document, **changes}, sort_keys=False)
        (folder / "own.imsc.yml").write_text(text)
        (metadata,) = extract_metadata(
            file, load_schemas(folder), catalogue, settings, told if announced else None
        )
        return metadata

    return extract_with


def test_the_built_in_variables_are_those_of_the_file(
    extract: Callable[..., ExtractedMetadata], path: Path
) -> None:
    found = extract().values
    assert uuid.UUID(found["ingestor_run_id"]).version == 4
    assert found["data_file_path"] == str(path)
    assert found["data_file_name"] == "small-coda.hdf"
    now = datetime.fromisoformat(found["now"])
    assert now.utcoffset() == timedelta(0)
    assert datetime.now(UTC) - now < timedelta(minutes=5)
    # As it is configured.
    assert found["ingestor_files_directory"] == "../ingestor"
    assert found["ingestor_metadata_schema_id"] == "schema-1"
    assert found["message_job_id"] == "f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
    assert found["message_service_id"] == "filewriter-1"
    assert found["message_metadata"] == {"proposal": "443503"}
    assert "job_id" not in found


def test_metadata_that_a_message_lacks_is_noted_and_fails_what_needs_it(
    extract: Callable[..., ExtractedMetadata],
) -> None:
    variables = {"a": {"source": "VALUE", "value": "<message_metadata>", "value_type": "dict"}}
    found = extract(announcement={"metadata": None, "lacks_metadata": True}, variables=variables)
    reason = "The message's metadata was larger than 256 KiB and is not kept."
    assert [(notice.subject, notice.reason) for notice in found.notices] == [
        ("variables.message_metadata", reason),
        ("variables.a", f"It needs <message_metadata>, which failed: {reason}"),
    ]
    assert found.values["message_job_id"]


def test_what_is_odd_about_a_schema_is_noted_in_each_run(extract: Callable[..., ExtractedMetadata]) -> None:
    variables = {"a": {"source": "VALUE", "value": "x", "value_type": "string", "operatr": "to-upper"}}
    found = extract(
        variables=variables,
        jobs={"embargo": {"type": "x", "job_params": {}, "owner": "y"}},
        sample_attachment={"query_sample_name": "?"},
    )
    assert [(notice.subject, notice.reason) for notice in found.notices[:2]] == [
        (
            "variables.a.operatr",
            "Is not a known key and has no effect; did you mean operator? (own.imsc.yml, line 11)",
        ),
        (
            "jobs.embargo.owner",
            "Is not a known key and has no effect; did you mean owner_user? (own.imsc.yml, line 52)",
        ),
    ]
    assert [notice.subject for notice in found.notices[2:]] == ["sample_attachment"]
    assert found.values["a"] == "x"


def test_a_schema_with_everything_that_schemas_of_other_ingestors_have_builds_a_dataset(
    extract: Callable[..., ExtractedMetadata],
    schema_document: Document,
    file: CompleteFile,
    settings: Settings,
) -> None:
    def nxs(path: str, kind: str = "string") -> Document:
        return {"source": "NXS", "path": path, "value_type": kind}

    def sc(url: str, key: str) -> Document:
        return {"source": "SC", "url": url, "field": key, "value_type": "string", "unit": ""}

    def val(value: str, operator: str) -> Document:
        return {"source": "VALUE", "value": value, "operator": operator, "value_type": "string", "unit": ""}

    def field(name: str, value: object, kind: str = "string", field_type: str = "high_level") -> Document:
        return {"field_type": field_type, "machine_name": name, "value": value, "type": kind}

    fields = schema_document["schema"]
    del fields["pi"]
    fields["folder"]["value"] = "/"
    metadata = extract(
        sample_attachment={"query_sample_name": False},
        variables={
            "uuid": nxs("/entry/./entry_identifier_uuid"),
            "pid": val("<uuid>", "DO_NOTHING"),
            "proposal": nxs("/entry/experiment_identifier"),
            "surname": sc("proposals/<proposal>", "pi_lastname"),
            "instrument": sc(INSTRUMENTS, "id"),
            "guests": nxs("/entry/guest_*/name", "string[]"),
            "team": val("<team>", "join_with_space"),
        },
        schema={
            **fields,
            "pid": field("pid", "<pid>"),
            "pi": field("principalInvestigators", ["<surname>"], "string[]"),
            "proposal": field("proposalIds", ["<proposal>"], "string[]"),
            "instrument": field("instrumentIds", ["<instrument>"], "string[]"),
            "place": field("location", "ESS:<proposal>"),
            "guests": field("guests", "<guests>", "string[]", "scientific_metadata"),
            "job": field("job_id", "<uuid>", "integer", "scientific_metadata"),
            "team": field("team", "<team>", "string", "scientific_metadata"),
        },
        jobs={"embargo": {"type": "embargo", "job_params": {"pid": "<pid>"}}},
    )  # fmt: skip
    built = build(metadata, describe_files(file, settings), settings)
    assert built.dataset["principalInvestigator"] == "Lovelace"
    assert built.dataset["proposalId"] == "443503"
    assert built.dataset["pid"] == PID
    found = built.dataset["scientificMetadata"]
    assert isinstance(found, dict)
    assert list(found) == ["guests"]
    assert [notice.subject for notice in built.notices] == [
        "variables.instrument",
        "variables.team",
        "schema.place (location)",
        "schema.instrument (instrumentIds)",
        "schema.job (job_id)",
        "schema.team (team)",
    ]


def test_each_run_has_its_own_id(extract: Callable[..., ExtractedMetadata]) -> None:
    assert extract().values["ingestor_run_id"] != extract().values["ingestor_run_id"]


def test_without_a_message_its_variables_are_not_there(extract: Callable[..., ExtractedMetadata]) -> None:
    variables = {"a": {"source": "VALUE", "value": "<message_job_id>", "value_type": "string"}}
    found = extract(announced=False, variables=variables)
    assert not [name for name in found.values if name.startswith("message_")]
    assert [notice.subject for notice in found.notices] == ["variables.a"]


def test_a_schema_uses_what_the_message_says(extract: Callable[..., ExtractedMetadata]) -> None:
    variable = {
        "source": "VALUE", "value": "<message_metadata>", "operator": "getitem", "field": "proposal",
        "value_type": "string",
    }  # fmt: skip
    assert extract(variables={"p": variable}).values["p"] == "443503"


def test_units_travel_with_the_values(
    extract: Callable[..., ExtractedMetadata], schema_document: Document
) -> None:
    variables = {"t": {"source": "NXS", "path": "/entry/title", "unit": "mm", "value_type": "string"}}
    found = extract(variables=variables)
    assert found.evaluation().values["t"].unit == "mm"
    assert found.evaluation().values["data_file_name"].unit == ""


def test_what_is_wrong_with_the_folder_is_noted_on_every_run(
    file: CompleteFile, schemas_folder: Path, catalogue: FakeCatalogue, settings: Settings
) -> None:
    (schemas_folder / "broken.imsc.yml").write_text("id: [")
    (found,) = extract_metadata(file, load_schemas(schemas_folder), catalogue, settings)
    assert [notice.subject for notice in found.notices] == ["schema file broken.imsc.yml"]


def test_the_name_of_the_instrument_in_the_file_wins_over_the_schemas(
    extract: Callable[..., ExtractedMetadata],
) -> None:
    assert extract(instrument="other").instrument == "ODIN"


def test_the_instrument_of_the_schema_is_taken_where_the_file_has_none(
    path: Path, aged: Age, schemas: SchemaCollection, catalogue: FakeCatalogue, settings: Settings
) -> None:
    with h5py.File(path, "a") as nexus:
        del nexus["entry/instrument/name"]
    (found,) = extract_metadata(look_at(aged(path, 3600)), schemas, catalogue, settings)
    assert found.instrument == "coda"


# --- Samples


LOOKUP = {"query_sample_name": True}
SAMPLE = {"sampleId": "s-1", "description": "A Sample"}


def test_a_sample_is_not_looked_up_unless_the_schema_says_so(
    extract: Callable[..., ExtractedMetadata], catalogue: FakeCatalogue
) -> None:
    catalogue.samples = [SAMPLE]
    assert extract().sample_id is None
    assert catalogue.asked == []


@pytest.mark.parametrize(
    "sample",
    [
        SAMPLE,
        {"sampleId": "s-1", "sampleName": "A Sample", "description": "x"},
        {"sampleId": "s-1", "description": "x", "sampleCharacteristics": {"name": "A Sample"}},
        {"sampleId": "s-1", "sampleCharacteristics": {"name": {"value": "A Sample", "unit": ""}}},
    ],
)
def test_the_sample_of_the_proposal_with_the_name_in_the_file_is_found(
    extract: Callable[..., ExtractedMetadata], catalogue: FakeCatalogue, sample: dict[str, Any]
) -> None:
    catalogue.samples = [
        {"sampleId": "s-2", "description": "Another"},
        {"sampleId": "s-3", "sampleCharacteristics": None},
        sample,
    ]
    assert extract(sample_attachment=LOOKUP).sample_id == "s-1"
    assert catalogue.asked == ["samples of 443503"]


def test_a_sample_is_found_by_its_name_before_its_description(
    extract: Callable[..., ExtractedMetadata], catalogue: FakeCatalogue
) -> None:
    by_characteristics = {"sampleId": "s-3", "sampleCharacteristics": {"name": "A Sample"}}
    catalogue.samples = [by_characteristics, {**SAMPLE, "sampleId": "s-2"}]
    assert extract(sample_attachment=LOOKUP).sample_id == "s-2"

    catalogue.samples = [*catalogue.samples, {"sampleId": "s-1", "sampleName": "A Sample"}]
    assert extract(sample_attachment=LOOKUP).sample_id == "s-1"


@pytest.mark.parametrize(
    ("samples", "attachment", "reason"),
    [
        ([], LOOKUP, "0 samples of proposal 443503 are named 'A Sample'"),
        ([SAMPLE, SAMPLE], LOOKUP, "2 samples"),
        ([SAMPLE], {**LOOKUP, "sample_name_path": "/entry/gone"}, "no dataset at /entry/gone"),
        ([SAMPLE], {**LOOKUP, "proposal_id_path": "/entry/gone"}, "no dataset at /entry/gone"),
    ],
)
def test_a_sample_that_is_not_found_is_noted_and_the_file_goes_on(
    extract: Callable[..., ExtractedMetadata],
    catalogue: FakeCatalogue,
    samples: list[dict[str, Any]],
    attachment: Document,
    reason: str,
) -> None:
    catalogue.samples = samples
    found = extract(sample_attachment=attachment)
    assert found.sample_id is None
    assert [notice.subject for notice in found.notices] == ["sample_attachment"]
    assert reason in found.notices[0].reason


def test_the_sample_is_named_in_the_dataset(
    extract: Callable[..., ExtractedMetadata],
    catalogue: FakeCatalogue,
    file: CompleteFile,
    settings: Settings,
) -> None:
    catalogue.samples = [SAMPLE]
    built = build(extract(sample_attachment=LOOKUP), describe_files(file, settings), settings)
    assert built.dataset["sampleId"] == "s-1"


# --- Files that change


def test_a_file_that_changed_since_it_was_complete_is_not_used(
    file: CompleteFile, path: Path, schemas: SchemaCollection, catalogue: FakeCatalogue, settings: Settings
) -> None:
    os.utime(path, ns=(0, 0))
    with pytest.raises(FileChangedError):
        extract_metadata(file, schemas, catalogue, settings)
    with pytest.raises(FileChangedError):
        describe_files(file, settings)


def test_a_file_that_changes_while_its_metadata_is_read_is_not_used(
    file: CompleteFile, path: Path, schemas: SchemaCollection, settings: Settings
) -> None:
    class Meanwhile(FakeCatalogue):
        def fetch(self, url: str) -> JsonValue:
            os.utime(path, ns=(0, 0))
            return super().fetch(url)

    with pytest.raises(FileChangedError):
        extract_metadata(file, schemas, Meanwhile(), settings)


@pytest.mark.parametrize("hostile", ["../443504", "..", "a/b", "/etc"])
def test_a_value_cannot_lead_a_pattern_to_another_folder(
    path: Path, catalogue: FakeCatalogue, settings: Settings, schemas_folder: Path, aged: Age, hostile: str
) -> None:
    (path.parent / "443503_1.cbf").write_text("x")
    aged(path.parent / "443503_1.cbf", 3600)
    with h5py.File(path, "a") as file:
        file["entry/hostile"] = hostile
    aged(path, 3600)
    name = schemas_folder / "small-coda.imsc.yml"
    schema = yaml.safe_load(name.read_text())
    schema["variables"]["hostile"] = {"source": "NXS", "path": "/entry/hostile", "value_type": "string"}
    schema["files"] = ["<proposal_id>_*.cbf", "<hostile>/*", "<nobody>.h5"]
    name.write_text(yaml.safe_dump(schema, sort_keys=False))

    (found,) = extract_metadata(look_at(path), load_schemas(schemas_folder), catalogue, settings)

    assert [Path(other).name for other in found.other_files] == ["443503_1.cbf"]
    reasons = [notice.reason for notice in found.notices if notice.subject == "files"]
    assert len(reasons) == 2
    assert "leads to another folder" in reasons[0]
    assert "<nobody>" in reasons[1]


@pytest.mark.parametrize(
    ("follow", "place", "value"),
    [
        ("beside", "deep", ["linked"]),
        ("beside", "..", None),
        ("data_directory", "..", ["linked"]),
        ("never", "deep", None),
    ],
)
def test_the_configuration_says_how_far_links_are_followed(
    path: Path, tmp_path: Path, settings: Settings, aged: Age, follow: str, place: str, value: object
) -> None:
    (path.parent / "deep").mkdir()
    with h5py.File(path.parent / place / "other.h5", "w") as file:
        file["name"] = "linked"
    aged(path.parent / place / "other.h5", 3600)
    with h5py.File(path, "a") as file:
        file["entry/it"] = h5py.ExternalLink(f"{place}/other.h5", "/name")
    aged(path, 3600)
    handling = FileHandlingSettings.model_validate({"data_directory": str(tmp_path), "follow_links": follow})

    found = values_of(look_at(path), [Read(path="/entry/it", all=True)], handling)

    if value is None:
        with pytest.raises(ValueError, match="leads to another file"):
            found.read_all("/entry/it")
    else:
        assert found.read_all("/entry/it").value == value


def test_a_section_of_files_that_cannot_be_used_is_noted(
    file: CompleteFile, catalogue: FakeCatalogue, settings: Settings, schemas_folder: Path
) -> None:
    name = schemas_folder / "small-coda.imsc.yml"
    name.write_text(name.read_text() + "\nfiles: {pattern: x, linked: maybe}\n")

    (found,) = extract_metadata(file, load_schemas(schemas_folder), catalogue, settings)

    assert found.other_files == ()
    assert [notice.subject for notice in found.notices if notice.subject.startswith("files")]
