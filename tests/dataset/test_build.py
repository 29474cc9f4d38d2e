"""The bodies that are posted: what goes where, what is refused before a server would, and pids."""

from __future__ import annotations

import copy
import json
import math
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.config.models import DatasetSettings, FileHandlingSettings
from scicat_dagster.dataset.build import LARGEST_BODY_BYTES, BuiltDataset, build_dataset
from scicat_dagster.errors import Notice, PermanentError
from scicat_dagster.files.manifest import DataFile, FileDescription, Sidecar
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.rendering import Value
from scicat_dagster.schemas.variables import Evaluation

Document = dict[str, Any]
Build = Callable[..., BuiltDataset]

DATA_FILE = DataFile(
    path="/data/odin/raw/run.hdf", size=1000, time="2024-10-28T09:18:14.376Z", chk="abc", uid="1", gid="2"
)
FILES = FileDescription(data_file=DATA_FILE, checksum_algorithm="blake2b")
WITH_SIDECARS = FileDescription(
    data_file=DATA_FILE,
    sidecars=(Sidecar(path="/data/odin/ingestor/run.b2b", content="abc"),),
    sidecar_files=(
        DataFile(path="/data/odin/ingestor/run.b2b", size=3, time="2024-10-28T09:18:15.000Z"),
        DataFile(path="/data/odin/ingestor/run.message.json", size=20, time="2024-10-28T09:18:15.000Z"),
    ),
    checksum_algorithm="blake2b",
)


def high_level(name: str, value: object, kind: str = "string") -> Document:
    return {"field_type": "high_level", "machine_name": name, "value": value, "type": kind}


def metadata(name: str, value: object, kind: str = "string", **more: str) -> Document:
    return {"field_type": "scientific_metadata", "machine_name": name, "value": value, "type": kind, **more}


@pytest.fixture
def build(schema_document: Document) -> Build:
    """Build with the smallest schema, its fields changed (``None`` takes one away)."""

    def build_it(
        fields: Document | None = None,
        variables: dict[str, Value] | None = None,
        notices: tuple[Notice, ...] = (),
        files: FileDescription = FILES,
        handling: Document | None = None,
        sample_id: str | None = None,
        **defaults: Any,
    ) -> BuiltDataset:
        document = copy.deepcopy(schema_document)
        document["schema"] |= fields or {}
        document["schema"] = {key: value for key, value in document["schema"].items() if value is not None}
        return build_dataset(
            Schema.model_validate(document),
            Evaluation(values=variables or {}, notices=list(notices)),
            files,
            defaults=DatasetSettings.model_validate(defaults),
            handling=FileHandlingSettings.model_validate(handling or {}),
            sample_id=sample_id,
        )

    return build_it


def entries(built: BuiltDataset) -> Document:
    found = built.dataset["scientificMetadata"]
    assert isinstance(found, dict)
    return dict(found)


def file_list(built: BuiltDataset) -> list[Document]:
    found = built.origdatablock["dataFileList"]
    assert isinstance(found, list)
    return [dict(item) for item in found if isinstance(item, dict)]


# --- Fields


def test_the_smallest_dataset_is_raw_and_not_published(build: Build) -> None:
    built = build()
    pid = built.dataset.pop("pid")
    assert built.dataset == {
        "type": "raw",
        "owner": "Ada Lovelace",
        "contactEmail": "ada@example.org",
        "sourceFolder": "/data/odin",
        "creationTime": "2024-10-28T09:06:41+00:00",
        "principalInvestigator": "Ada Lovelace",
        "creationLocation": "ESS:ODIN",
        "ownerGroup": "odin",
        "isPublished": False,
        "scientificMetadata": {},
    }
    assert built.notices == ()
    assert built.data_file == "/data/odin/raw/run.hdf"
    assert built.origdatablock["datasetId"] == pid


def test_a_field_is_rendered_and_converted(build: Build) -> None:
    built = build(
        {
            "name": high_level("datasetName", "<title> at <t> K"),
            "run": high_level("runNumber", "<run>", "integer"),
            "keywords": high_level("keywords", ["<title>", "x"], "string[]"),
            "techniques": high_level("techniques", [{"pid": "t1", "name": "<title>"}], "list"),
            "published": high_level("isPublished", "<yes>", "string"),
            "cycle": high_level("datasetlifecycle", {"archivable": True}, "dict"),
        },
        {"title": Value("odin"), "t": Value(300, "K"), "run": Value("31010"), "yes": Value("true")},
    )
    assert built.dataset["datasetName"] == "odin at 300 K"
    # The API wants text there.
    assert built.dataset["runNumber"] == "31010"
    assert built.dataset["keywords"] == ["odin", "x"]
    assert built.dataset["techniques"] == [{"pid": "t1", "name": "odin"}]
    assert built.dataset["isPublished"] is True
    assert built.dataset["datasetlifecycle"] == {"archivable": True}


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (high_level("location", "x"), "did you mean creationLocation?"),
        (high_level("comment", "x", "boolean"), "type: 'boolean' is not known"),
        (metadata("it", "x", "quantity"), "type: 'quantity' is not known"),
        ({"machine_name": "it", "value": "x", "type": "string"}, "field_type: is missing"),
    ],
)
def test_a_field_that_cannot_be_used_is_left_out_and_noted(
    build: Build, field: Document, reason: str
) -> None:
    built = build({"it": field})
    (notice,) = built.notices
    assert notice.subject == f"schema.it ({field['machine_name']})"
    assert reason in notice.reason
    assert built.dataset.keys() == build().dataset.keys()
    assert entries(built) == {}


def test_a_mandatory_field_that_cannot_be_used_is_missing_with_its_mistake(build: Build) -> None:
    with pytest.raises(PermanentError, match="owner: type: 'person' is not known"):
        build({"owner": high_level("owner", "Ada", "person")})


@pytest.mark.parametrize("allowed", [True, False])
def test_a_pid_that_cannot_be_used_is_never_replaced_by_another(build: Build, *, allowed: bool) -> None:
    fields = {"pid": high_level("pid", "<job>", "text")}
    if not allowed:
        assert "pid" not in build(fields, allow_dataset_pid=False).dataset
        return
    with pytest.raises(PermanentError, match="a pid that cannot be built: type: 'text' is not known"):
        build(fields)


@pytest.mark.parametrize(
    ("name", "field"),
    [("proposalIds", "proposalId"), ("instrumentIds", "instrumentId"), ("sampleIds", "sampleId")],
)
def test_a_list_of_the_next_api_is_kept_beside_its_first_value(build: Build, name: str, field: str) -> None:
    # Some schemas of facilities say `string` of a list.
    for kind in ("string[]", "string"):
        built = build({"it": high_level(name, ["<a>", "", "b", 3], kind)}, {"a": Value("")})
        assert built.dataset[field] == "b"
        assert built.dataset[name] == ["b", "3"]
    assert name not in build({"it": high_level(name, ["a"], "string[]")}).dataset
    assert build({"it": high_level(name, "a")}).dataset[field] == "a"


def test_principal_investigators_of_the_next_api_are_joined(build: Build) -> None:
    pis = high_level("principalInvestigators", ["Ada", "<b>"], "string[]")
    built = build({"pi": pis}, {"b": Value("Bo")})
    assert built.dataset["principalInvestigator"] == "Ada, Bo"
    assert built.dataset["principalInvestigators"] == ["Ada", "Bo"]
    assert built.notices == ()


def test_a_list_of_the_next_api_that_fails_is_the_reason_of_the_field(build: Build) -> None:
    with pytest.raises(PermanentError, match="principalInvestigator: It uses <b>"):
        build({"pi": high_level("principalInvestigators", ["<b>"], "string[]")})
    with pytest.raises(PermanentError, match="principalInvestigator: its list is empty"):
        build({"pi": high_level("principalInvestigators", [], "string[]")})


@pytest.mark.parametrize("first", ["own", "list"])
def test_a_field_of_this_api_wins_over_the_list_of_the_next(build: Build, first: str) -> None:
    fields = {"own": high_level("proposalId", "1"), "list": high_level("proposalIds", ["2"], "string[]")}
    ordered = {first: fields.pop(first), **fields}
    assert build(ordered).dataset["proposalId"] == "1"


def test_a_group_that_cannot_be_rendered_is_not_posted_as_its_text(build: Build) -> None:
    fields = {"group": high_level("ownerGroup", "ess_<proposal id>")}
    built = build(fields, {"proposal_id": Value("443503")}, default_owner_group="scientists")
    assert built.dataset["ownerGroup"] == "scientists"
    assert [notice.subject for notice in built.notices] == ["schema.group (ownerGroup)"]


def test_the_keys_of_a_field_are_rendered(build: Build) -> None:
    built = build({"it": metadata("it", {"<title>": "x"}, "dict")}, {"title": Value("odin")})
    assert entries(built)["it"]["value"] == {"odin": "x"}


def test_size_and_number_of_files_are_left_to_the_server(build: Build) -> None:
    """Servers after 5.2.1 add the block's to them."""
    built = build(
        {"size": high_level("size", 5, "integer"), "count": high_level("numberOfFiles", 7, "integer")},
        files=WITH_SIDECARS,
    )
    assert built.origdatablock["size"] == 1023
    assert {"size", "numberOfFiles"}.isdisjoint(built.dataset)
    assert {notice.subject for notice in built.notices} == {"schema.size", "schema.numberOfFiles"}


def test_an_entry_has_value_unit_name_and_type(build: Build) -> None:
    variables = {"t": Value(300.5, "K"), "name": Value("odin")}
    built = build(
        {
            "a": metadata("temperature", "<t>", "float", human_name="Temperature"),
            "b": metadata("cold", "<t>", "float", unit="mK"),
            "c": metadata("text", "at <t>"),
            "d": metadata("instrument", "<name>"),
        },
        variables,
    )
    assert entries(built) == {
        "temperature": {"value": 300.5, "unit": "K", "human_name": "Temperature", "type": "float"},
        "cold": {"value": 300.5, "unit": "mK", "human_name": "cold", "type": "float"},
        "text": {"value": "at 300.5", "unit": "", "human_name": "text", "type": "string"},
        "instrument": {"value": "odin", "unit": "", "human_name": "instrument", "type": "string"},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_json_number_is_null_inside_its_entry(build: Build, value: float) -> None:
    built = build(
        {
            "a": metadata("one", "<x>", "float"),
            "b": metadata("many", "<xs>", "float[]"),
            "c": metadata("dict", "<d>", "dict"),
        },
        {"x": Value(value, "K"), "xs": Value([1.0, value]), "d": Value({"a": [value]})},
    )
    assert entries(built)["one"] == {"value": None, "unit": "K", "human_name": "one", "type": "float"}
    assert entries(built)["many"]["value"] == [1.0, None]
    assert entries(built)["dict"]["value"] == {"a": [None]}
    json.dumps(built.dataset, allow_nan=False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=4), st.data())
def test_no_entry_can_kill_the_server(values: dict[str, object], data: st.DataObject) -> None:
    # A null entry, a human_name that is not text or an empty key ends the server's process.
    kinds = st.sampled_from(["string", "list", "dict", "float", "none", "string[]", "date"])
    schema = Schema.model_validate(
        {
            "id": "1", "name": "n", "order": 1, "selector": "*",
            "schema": {
                "o": high_level("owner", "A"), "e": high_level("contactEmail", "a@b.org"),
                "f": high_level("sourceFolder", "/d"), "c": high_level("creationTime", "2024-10-28"),
                "p": high_level("principalInvestigator", "A"), "l": high_level("creationLocation", "L"),
                "g": high_level("ownerGroup", "g"),
                **{
                    f"x{number}": metadata(name, f"<v{number}>", data.draw(kinds))
                    for number, name in enumerate(values)
                },
            },
        }
    )  # fmt: skip
    evaluation = Evaluation({f"v{number}": Value(value) for number, value in enumerate(values.values())})
    built = build_dataset(
        schema, evaluation, FILES, defaults=DatasetSettings(), handling=FileHandlingSettings()
    )
    json.dumps(built.dataset, allow_nan=False)
    for name, entry in entries(built).items():
        assert name
        assert isinstance(entry, dict)
        assert set(entry) == {"value", "unit", "human_name", "type"}
        assert isinstance(entry["human_name"], str)
        assert isinstance(entry["unit"], str)
    # Nothing is lost in silence.
    assert len(entries(built)) + len(built.notices) >= len(values)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, 1j, object()])
def test_what_is_no_json_is_noted_and_left_out(build: Build, value: object) -> None:
    built = build({"a": metadata("odd", ["<x>"], "list"), "b": metadata("fine", "y")}, {"x": Value(value)})
    assert list(entries(built)) == ["fine"]
    assert built.notices[0].subject.startswith("schema.a")
    assert "nothing that metadata can hold" in built.notices[0].reason


@pytest.mark.parametrize("depth", [50, 300, 600, 900])
def test_a_deeply_nested_value_costs_no_other_entry(build: Build, depth: int) -> None:
    value: object = 1
    for _ in range(depth):
        value = [value]
    built = build({"a": metadata("deep", "<x>", "list"), "b": metadata("fine", "y")}, {"x": Value(value)})
    assert "fine" in entries(built)


def test_a_field_that_cannot_be_built_is_noted_and_left_out(build: Build) -> None:
    built = build(
        {
            "a": high_level("description", "<gone>"),
            "b": metadata("run", "<title>", "integer"),
            "c": metadata("later", "<failed>"),
        },
        {"title": Value("odin")},
        notices=(Notice(subject="variables.failed", reason="There is no dataset at /x."),),
    )
    assert "description" not in built.dataset
    assert entries(built) == {}
    # The key in the schema file comes first; a machine name may follow.
    assert [(notice.subject.partition(" ")[0], notice.reason) for notice in built.notices] == [
        ("variables.failed", "There is no dataset at /x."),
        ("schema.a", "It uses <gone>, which is not defined before it."),
        ("schema.b", "'odin' is not an integer"),
        ("schema.c", "It needs <failed>, which failed: There is no dataset at /x."),
    ]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("ownerEmail", "nobody", "email"),
        ("ownerEmail", "a@localhost", "email"),
        ("ownerEmail", "", "email"),
        ("ownerEmail", "a@b.org; c@d.org", "email"),
        ("startTime", "", "string"),
        ("startTime", "yesterday", "string"),
        ("endTime", "2024-13-45", "string"),
        ("datasetName", "", "string"),
        ("keywords", "not a list", "string"),
        ("isPublished", "perhaps", "string"),
        ("proposalId", ["a"], "list"),
    ],
)
def test_an_optional_field_that_the_server_would_refuse_is_noted_and_left_out(
    build: Build, name: str, value: object, kind: str
) -> None:
    built = build({"it": high_level(name, value, kind), "other": high_level("comment", "kept")})
    assert built.dataset.get(name) in (None, False)
    assert built.dataset["comment"] == "kept"
    assert [notice.subject for notice in built.notices] == [f"dataset.{name}"]
    assert built.notices[0].reason


@pytest.mark.parametrize(
    ("name", "written", "sent"),
    [
        ("ownerEmail", " ada@example.org ", "ada@example.org"),
        ("contactEmail", "a@b.org;c@d.org", "a@b.org; c@d.org"),
        ("contactEmail", "ada+x@sub.example.org", "ada+x@sub.example.org"),
        ("startTime", "2024-10-28T09:18:14.376Z", "2024-10-28T09:18:14.376Z"),
    ],
)
def test_addresses_and_dates_that_the_server_accepts_are_sent(
    build: Build, name: str, written: str, sent: str
) -> None:
    assert (
        build(
            {
                "contact": None,
                "it": high_level(name, written),
                **({} if name == "contactEmail" else {"contact": high_level("contactEmail", "x@y.org")}),
            }
        ).dataset[name]
        == sent
    )


# --- Mandatory fields


def test_every_missing_field_is_named_with_its_own_reason(build: Build) -> None:
    with pytest.raises(PermanentError, match="Mandatory fields cannot be built") as caught:
        build(
            {
                "owner": high_level("owner", ""),
                "contact": high_level("contactEmail", "a@localhost"),
                "folder": high_level("sourceFolder", "<folder>"),
                "created": high_level("creationTime", "yesterday", "date"),
                "pi": None,
                "location": high_level("creationLocation", "<pi>"),
                "group": None,
            },
            notices=(Notice(subject="variables.pi", reason="There is no dataset at /pi."),),
        )
    what = caught.value.what
    assert "contactEmail: 'a@localhost' is not an e-mail address." in what
    assert "sourceFolder: It uses <folder>, which is not defined before it." in what
    assert "creationTime: 'yesterday' is not an ISO 8601 date." in what
    assert "principalInvestigator: the schema does not assign it." in what
    assert "creationLocation: It needs <pi>, which failed: There is no dataset at /pi." in what
    assert "ownerGroup: the schema does not assign it." in what
    assert "owner: is empty." in what
    assert "default_" in caught.value.remedy


@pytest.mark.parametrize("key", ["owner", "contact", "folder", "created", "pi", "location", "group"])
def test_each_mandatory_field_is_mandatory(build: Build, schema_document: Document, key: str) -> None:
    name = schema_document["schema"][key]["machine_name"]
    with pytest.raises(PermanentError, match=rf"{name}: the schema does not assign it\."):
        build({key: None})


def test_an_entry_of_the_same_name_gives_no_wrong_reason(build: Build) -> None:
    with pytest.raises(PermanentError, match=r"owner: the schema does not assign it\."):
        build({"owner": None, "note": metadata("owner", "<gone>")})


def test_a_list_of_samples_is_left_out_and_noted(build: Build) -> None:
    built = build({"s": high_level("sampleId", ["s-1", "s-2"], "string[]")})
    assert "sampleId" not in built.dataset
    assert [notice.subject for notice in built.notices] == ["dataset.sampleId"]


def test_a_derived_dataset_needs_what_it_was_derived_from(build: Build) -> None:
    derived = {
        "type": high_level("type", "derived"),
        "inputs": high_level("inputDatasets", ["20.500.12269/raw"], "string[]"),
        "software": high_level("usedSoftware", ["scipp 25.11"], "string[]"),
    }
    with pytest.raises(PermanentError) as refused:
        build({"type": derived["type"]})
    assert "inputDatasets: the schema does not assign it." in refused.value.what
    assert "usedSoftware: the schema does not assign it." in refused.value.what
    with pytest.raises(PermanentError, match="inputDatasets"):
        build({**derived, "inputs": high_level("inputDatasets", "<gone>", "string[]")})

    built = build(derived)

    assert built.dataset["type"] == "derived"
    assert built.dataset["inputDatasets"] == ["20.500.12269/raw"]
    assert built.dataset["usedSoftware"] == ["scipp 25.11"]


def test_a_relationship_of_the_older_form_is_translated(build: Build) -> None:
    old = {"pid": "20.500.12269/raw", "relationship": "IsDerivedFrom"}
    new = {"identifier": "10.1016/j.x", "identifierType": "DOI", "relationship": "IsCitedBy"}

    built = build({"related": high_level("relationships", [old, new], "list")})

    assert built.dataset["relationships"] == [
        {
            "identifier": "20.500.12269/raw",
            "identifierType": "Local",
            "relationship": "IsDerivedFrom",
            "entityType": "Dataset",
        },
        {**new, "entityType": "Other"},
    ]


@pytest.mark.parametrize("wrong", [{"relationship": "IsCitedBy"}, {"identifier": "x", "kind": "y"}, "x"])
def test_a_relationship_that_a_server_would_refuse_is_left_out_and_noted(build: Build, wrong: object) -> None:
    built = build({"related": high_level("relationships", [wrong], "list")})

    assert "relationships" not in built.dataset
    assert [notice.subject for notice in built.notices] == ["dataset.relationships"]


# --- Defaults


DEFAULTS: Document = {
    "default_instrument_id": "instrument-1",
    "default_proposal_id": "p-1",
    "default_owner_group": "staff",
    "default_access_groups": ["visitors"],
}


@pytest.mark.parametrize("missing", ["not assigned", "empty", "failed"])
def test_what_the_schema_does_not_fill_is_taken_from_the_settings(build: Build, missing: str) -> None:
    fields: Document = {"group": None}
    if missing != "not assigned":
        text = "" if missing == "empty" else "<gone>"
        fields = {
            "group": high_level("ownerGroup", text),
            "i": high_level("instrumentId", text),
            "p": high_level("proposalId", text),
            "a": high_level("accessGroups", [] if missing == "empty" else ["<gone>"], "string[]"),
        }
    dataset = build(fields, **DEFAULTS).dataset
    assert dataset["instrumentId"] == "instrument-1"
    assert dataset["proposalId"] == "p-1"
    assert dataset["ownerGroup"] == "staff"
    assert dataset["accessGroups"] == ["visitors"]


def test_what_the_schema_fills_is_not_replaced_by_the_settings(build: Build) -> None:
    dataset = build(
        {
            "i": high_level("instrumentId", "i-2"),
            "p": high_level("proposalId", 443503, "integer"),
            "a": high_level("accessGroups", ["mine"], "string[]"),
        },
        **DEFAULTS,
    ).dataset
    assert (dataset["instrumentId"], dataset["proposalId"]) == ("i-2", "443503")
    assert (dataset["ownerGroup"], dataset["accessGroups"]) == ("odin", ["mine"])


def test_without_defaults_nothing_is_invented(build: Build) -> None:
    dataset = build().dataset
    assert not {"instrumentId", "proposalId", "accessGroups", "sampleId"} & set(dataset)


def test_the_sample_that_was_found_is_named_unless_the_schema_names_one(build: Build) -> None:
    assert build(sample_id="s-1").dataset["sampleId"] == "s-1"
    named = build({"s": high_level("sampleId", "s-2")}, sample_id="s-1")
    assert named.dataset["sampleId"] == "s-2"


# --- Pids


JOB = {"job": metadata("job_id", "<job>")}
PREFIX = "20.500.12269/"


def test_without_the_right_to_choose_pids_none_is_sent(build: Build) -> None:
    fields = {**JOB, "pid": high_level("pid", "20.500.12269/abc")}
    for generate in (True, False):
        built = build(fields, {"job": Value("j-1")}, allow_dataset_pid=False, generate_dataset_pid=generate)
        assert "pid" not in built.dataset
        assert built.origdatablock["datasetId"] is None


@pytest.mark.parametrize(
    ("given_pid", "prefix", "expected"),
    [
        ("abc", "20.500.12269", "20.500.12269/abc"),
        ("abc", "20.500.99999", "20.500.99999/abc"),
        ("abc", "", "abc"),
        ("10.1/abc", "20.500.12269", "10.1/abc"),
        ("20.500.12269/abc", "20.500.12269", "20.500.12269/abc"),
    ],
)
def test_the_pid_of_the_schema_is_sent_with_a_prefix(
    build: Build, given_pid: str, prefix: str, expected: str
) -> None:
    built = build({"pid": high_level("pid", given_pid)}, dataset_pid_prefix=prefix)
    assert built.dataset["pid"] == built.origdatablock["datasetId"] == expected


def test_a_generated_pid_takes_the_place_of_the_schemas(build: Build) -> None:
    built = build({"pid": high_level("pid", "20.500.12269/abc")}, generate_dataset_pid=True)
    assert built.dataset["pid"] != "20.500.12269/abc"


def test_a_generated_pid_is_a_uuid5_behind_the_prefix(build: Build) -> None:
    pid = build(JOB, {"job": Value("j-1")}, generate_dataset_pid=True).dataset["pid"]
    assert isinstance(pid, str)
    assert pid.startswith(PREFIX)
    assert uuid.UUID(pid.removeprefix(PREFIX)).version == 5
    without = build(JOB, {"job": Value("j-1")}, generate_dataset_pid=True, dataset_pid_prefix="").dataset
    assert without["pid"] == pid.removeprefix(PREFIX)


def test_a_generated_pid_is_that_of_the_path_whatever_the_announcement_says(build: Build) -> None:
    moved = FILES.model_copy(update={"data_file": DATA_FILE.model_copy(update={"path": "/data/odin/b.hdf"})})
    variants: list[tuple[Document, dict[str, Value]]] = [
        ({}, {}),
        (JOB, {}),
        (JOB, {"job": Value("j-1")}),
        (JOB, {"job": Value("j-2")}),
    ]
    pids = {build(fields, values, generate_dataset_pid=True).dataset["pid"] for fields, values in variants}
    assert len(pids) == 1
    assert build(files=moved, generate_dataset_pid=True).dataset["pid"] not in pids


def test_a_pid_once_generated_stays_the_same_in_every_version(build: Build) -> None:
    # Another pid for a file that is in the catalogue would register it a second time.
    built = build(generate_dataset_pid=True)
    namespace = uuid.UUID("6f0a4d6e-95a5-5e0b-8b1b-3a1c2d1c7e55")
    assert built.dataset["pid"] == f"{PREFIX}{uuid.uuid5(namespace, DATA_FILE.path)}"


def test_it_says_whether_the_pid_is_made_of_the_path(build: Build) -> None:
    assigned = {"pid": high_level("pid", "20.500.12269/abc")}
    assert build().pid_is_derived
    assert build(assigned, generate_dataset_pid=True).pid_is_derived
    assert not build(assigned).pid_is_derived
    assert not build(allow_dataset_pid=False).pid_is_derived


@pytest.mark.parametrize("value", ["<gone>", ""])
def test_a_pid_that_the_schema_assigns_and_cannot_build_fails_the_file(build: Build, value: str) -> None:
    with pytest.raises(PermanentError, match="assigns a pid that cannot be built"):
        build({"pid": high_level("pid", value)})


def test_an_entry_that_is_called_pid_is_no_pid(build: Build) -> None:
    built = build({"note": metadata("pid", "controller parameters")})
    assert entries(built)["pid"]["value"] == "controller parameters"
    failed = build({"note": metadata("pid", "<gone>")})
    assert entries(failed) == {}


# --- Files


def test_every_file_is_listed_with_what_is_known_of_it(build: Build) -> None:
    built = build(files=WITH_SIDECARS)
    assert built.origdatablock == {
        "datasetId": built.dataset["pid"],
        "size": 1023,
        "dataFileList": [
            {
                "path": "raw/run.hdf",
                "size": 1000,
                "time": "2024-10-28T09:18:14.376Z",
                "chk": "abc",
                "uid": "1",
                "gid": "2",
            },
            {"path": "ingestor/run.b2b", "size": 3, "time": "2024-10-28T09:18:15.000Z"},
            {"path": "ingestor/run.message.json", "size": 20, "time": "2024-10-28T09:18:15.000Z"},
        ],
        "ownerGroup": "odin",
        "accessGroups": [],
        "chkAlg": "blake2b",
    }
    assert built.notices == ()


def test_without_checksums_no_algorithm_is_named(build: Build) -> None:
    # The server refuses an empty one.
    assert "chkAlg" not in build(files=FILES.model_copy(update={"checksum_algorithm": None})).origdatablock


def test_the_block_belongs_to_the_groups_of_the_dataset(build: Build) -> None:
    block = build(**DEFAULTS).origdatablock
    assert (block["ownerGroup"], block["accessGroups"]) == ("odin", ["visitors"])


@pytest.mark.parametrize(
    ("folder", "path_type", "expected"),
    [
        ("/data/odin", "relative", ["raw/run.hdf", "ingestor/run.b2b", "ingestor/run.message.json"]),
        ("/data/odin/", "relative", ["raw/run.hdf", "ingestor/run.b2b", "ingestor/run.message.json"]),
        ("/", "relative", ["data/odin/raw/run.hdf", "data/odin/ingestor/run.b2b",
                           "data/odin/ingestor/run.message.json"]),
        ("/data/odin", "absolute", ["/data/odin/raw/run.hdf", "/data/odin/ingestor/run.b2b",
                                    "/data/odin/ingestor/run.message.json"]),
    ],
)  # fmt: skip
def test_paths_are_relative_to_the_source_folder_or_absolute(
    build: Build, folder: str, path_type: str, expected: list[str]
) -> None:
    built = build(
        {"folder": high_level("sourceFolder", folder)},
        files=WITH_SIDECARS,
        handling={"file_path_type": path_type},
    )
    assert [item["path"] for item in file_list(built)] == expected
    assert built.notices == ()


@pytest.mark.parametrize("folder", ["/data/odin/raw", "/data/od", "data/odin"])
def test_a_file_outside_the_source_folder_is_listed_with_its_full_path_and_noted(
    build: Build, folder: str
) -> None:
    built = build({"folder": high_level("sourceFolder", folder)}, files=WITH_SIDECARS)
    paths = [item["path"] for item in file_list(built)]
    assert paths[1:] == ["/data/odin/ingestor/run.b2b", "/data/odin/ingestor/run.message.json"]
    outside = [path for path in paths if path.startswith("/")]
    assert len(built.notices) == len(outside)
    assert all("outside sourceFolder" in notice.reason for notice in built.notices)


# --- Size


def test_more_than_a_server_accepts_is_refused_and_the_largest_entry_named(build: Build) -> None:
    fields = {"small": metadata("small", "x"), "large": metadata("large", "<x>")}
    with pytest.raises(PermanentError, match="more than SciCat accepts") as caught:
        build(fields, {"x": Value("x" * LARGEST_BODY_BYTES)})
    assert str(LARGEST_BODY_BYTES) in caught.value.what
    assert "the largest is large" in caught.value.remedy


def test_what_a_server_just_accepts_is_built(build: Build) -> None:
    empty = len(json.dumps(build({"x": metadata("x", "<x>")}, {"x": Value("")}).dataset).encode())
    room = LARGEST_BODY_BYTES - empty
    assert LARGEST_BODY_BYTES == 16 * 1024 * 1024
    assert build({"x": metadata("x", "<x>")}, {"x": Value("x" * room)}).dataset
    with pytest.raises(PermanentError, match="more than SciCat accepts"):
        build({"x": metadata("x", "<x>")}, {"x": Value("x" * (room + 1))})


def test_a_built_dataset_is_the_same_after_it_was_stored(build: Build) -> None:
    built = build(JOB, {"job": Value("j-1")}, files=WITH_SIDECARS)
    assert BuiltDataset.model_validate_json(built.model_dump_json()) == built
