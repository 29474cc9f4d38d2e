"""The shape of a schema file: what is accepted, and that every mistake in one is found and named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from scicat_dagster.schemas.conversion import VALUE_TYPES
from scicat_dagster.schemas.models import (
    BUILT_IN_VARIABLES,
    NexusVariable,
    PreviewDefinition,
    SampleAttachment,
    Schema,
    Unusable,
    ValueVariable,
)
from scicat_dagster.schemas.operators import OPERATORS
from scicat_dagster.schemas.selection import Match

Document = dict[str, Any]


def mistake(document: Document) -> str:
    with pytest.raises(ValidationError) as caught:
        Schema.model_validate(document)
    return str(caught.value)


def mistakes(document: Document) -> list[str]:
    """What is wrong in a schema that can be used all the same."""
    return [str(mistake) for mistake in Schema.model_validate(document).mistakes()]


def value_variable(**changes: Any) -> Document:
    return {"source": "VALUE", "value": "x", "value_type": "string", **changes}


def with_variable(document: Document, variable: Document, name: str = "it") -> Document:
    return {**document, "variables": {name: variable}}


def with_field(document: Document, **changes: Any) -> Document:
    changed = copy.deepcopy(document)
    changed["schema"]["it"] = {
        "field_type": "high_level",
        "machine_name": "description",
        "value": "x",
        "type": "string",
        **changes,
    }
    return changed


def test_the_smallest_schema_has_the_documented_defaults(schema_document: Document) -> None:
    del schema_document["instrument"], schema_document["variables"]
    schema = Schema.model_validate(schema_document)
    assert schema.instrument == ""
    assert schema.variables == {}
    assert isinstance(schema.sample_attachment, SampleAttachment)
    assert schema.sample_attachment.query_sample_name is False
    assert schema.sample_attachment.sample_name_path == "/entry/sample/name"
    assert schema.sample_attachment.proposal_id_path == "/entry/experiment_identifier"


def test_a_schema_says_which_files_it_is_for(schema_document: Document) -> None:
    schema = Schema.model_validate({**schema_document, "selector": "filename:contains:odin"})
    assert schema.selects().match("/data/odin/run.hdf") is Match.YES
    assert schema.selects().match("/data/dream/run.hdf") is Match.NO


def test_numbers_where_text_is_meant_are_their_text(schema_document: Document) -> None:
    numbers = {"unit": 1, "machine_name": 5, "human_name": 6, "field_type": "scientific_metadata"}
    document = with_field({**schema_document, "id": 7, "name": 8, "instrument": 9}, **numbers)
    schema = Schema.model_validate(document)
    assert mistakes(document) == []
    assert (schema.id, schema.name, schema.instrument) == ("7", "8", "9")
    field = schema.assignments["it"]
    assert (field.unit, field.machine_name, field.human_name) == ("1", "5", "6")


def test_instruments_may_be_a_list_and_names_may_be_empty(schema_document: Document) -> None:
    document = {**schema_document, "id": "", "name": "", "instrument": ["odin", "dream"]}
    assert mistakes(document) == []
    assert Schema.model_validate(document).instrument == "odin,dream"


@pytest.mark.parametrize("order", [1.5, "1.5", 10, -3])
def test_the_order_is_any_number(schema_document: Document, order: object) -> None:
    assert Schema.model_validate({**schema_document, "order": order}).order == float(str(order))


@pytest.mark.parametrize("order", [float("nan"), float("inf"), "first", None])
def test_what_cannot_be_sorted_is_not_an_order(schema_document: Document, order: object) -> None:
    assert "order" in mistake({**schema_document, "order": order})


@pytest.mark.parametrize("schema", [{}, None])
def test_a_schema_without_fields_is_a_mistake_and_can_be_read(
    schema_document: Document, schema: object
) -> None:
    document = {**schema_document, "schema": schema}
    assert mistakes(document) == [
        "schema: is missing or empty, so that every file lacks the mandatory fields."
    ]
    del document["schema"]
    assert len(mistakes(document)) == 1


NO_KEY = "is not a known key and has no effect"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("comment", f"{NO_KEY}."),
        ("variabels", f"{NO_KEY}; did you mean variables?"),
        ("variables.v.operatr", f"{NO_KEY}; did you mean operator?"),
        ("variables.v.note", f"{NO_KEY}."),
        ("schema.owner.valeu", f"{NO_KEY}; did you mean value?"),
        ("schema.owner.units", f"{NO_KEY}; did you mean unit?"),
        ("sample_attachment.query", f"{NO_KEY}."),
    ],
)
@pytest.mark.parametrize("value", ["x", None, {"a": {"b": 1}}])
def test_an_unknown_key_is_a_mistake_and_a_notice(
    schema_document: Document, place: str, expected: str, value: object
) -> None:
    document = {**schema_document, "variables": {"v": value_variable()}, "sample_attachment": {}}
    section = document
    *above, last = place.split(".")
    for key in above:
        section = section[key]
    section[last] = value
    assert mistakes(document) == [f"{place}: {expected}"]
    (notice,) = (oddity.as_notice() for oddity in Schema.model_validate(document).oddities())
    assert (notice.subject, notice.reason.casefold()) == (place, expected.casefold())


@pytest.mark.parametrize("key", ["id", "name", "order", "selector"])
def test_what_is_mandatory_is_missed_by_name(schema_document: Document, key: str) -> None:
    del schema_document[key]
    assert key in mistake(schema_document)


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", ["a"]), ("name", {}), ("order", "first"), ("schema", []), ("variables", ["a"])],
)
def test_what_is_of_the_wrong_kind_is_refused_by_name(
    schema_document: Document, key: str, value: object
) -> None:
    assert key in mistake({**schema_document, key: value})


def test_a_wrong_selector_is_named(schema_document: Document) -> None:
    (found,) = mistakes({**schema_document, "selector": "filename:like:x"})
    assert found.startswith("selector: unknown operator 'like'")


@pytest.mark.parametrize("name", BUILT_IN_VARIABLES)
def test_built_in_names_can_be_defined_again(schema_document: Document, name: str) -> None:
    document = with_variable(schema_document, value_variable(value=f"my <{name}>"), name)
    assert mistakes(document) == []
    assert Schema.model_validate(document).reference_mistakes() == []


@pytest.mark.parametrize(
    "variable",
    [value_variable(unit="mm"), {"source": "SC", "url": "x", "value_type": "string", "unit": ""}],
)
def test_every_variable_may_have_a_unit(schema_document: Document, variable: Document) -> None:
    assert mistakes(with_variable(schema_document, variable)) == []


def test_a_section_that_cannot_be_used_does_not_void_the_schema(schema_document: Document) -> None:
    document = {**schema_document, "sample_attachment": {"query_sample_name": "perhaps"}}
    (found,) = mistakes(document)
    assert found.startswith("sample_attachment.query_sample_name: ")
    assert isinstance(Schema.model_validate(document).sample_attachment, Unusable)


def test_the_built_in_variables_are_these() -> None:
    assert set(BUILT_IN_VARIABLES) == {
        "ingestor_run_id", "data_file_path", "data_file_name", "now", "ingestor_files_directory",
        "ingestor_metadata_schema_id", "message_job_id", "message_service_id", "message_metadata",
    }  # fmt: skip


# --- Variables


@pytest.mark.parametrize("value_type", VALUE_TYPES)
def test_every_value_type_is_known(schema_document: Document, value_type: str) -> None:
    document = with_variable(schema_document, {"source": "NXS", "path": "/x", "value_type": value_type})
    variable = Schema.model_validate(document).variables["it"]
    assert isinstance(variable, NexusVariable)
    assert variable.value_type == value_type


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        (
            {"source": "NXS", "path": "/x", "value_type": "text"},
            "value_type: 'text' is not known; use one of",
        ),
        (
            {"source": "NXS", "path": "/x", "value_type": "str"},
            "value_type: 'str' is not known; did you mean string?",
        ),
        (
            {"source": "NXS", "pth": "/x", "value_type": "string"},
            "variables.it.pth: is not",
        ),
        ({"source": "NXS", "value_type": "string"}, "path"),
        ({"source": "NXS", "path": "/x"}, "value_type"),
        (
            {"source": "NXS", "path": "/entry/user_(*/name", "value_type": "string[]"},
            "not a regular expression",
        ),
        ({"source": "SC", "value_type": "string"}, "url"),
        ({"source": "VALUE", "value_type": "string"}, "value"),
        ({"source": "FILE", "value_type": "string"}, "FILE"),
        ({"value": "x", "value_type": "string"}, "source"),
        (value_variable(operator="reverse"), "unknown operator 'reverse'; known are"),
        (value_variable(operator="to-uper"), "unknown operator 'to-uper'; did you mean to_upper?"),
        (value_variable(operator=5), "unknown operator 5"),
        (value_variable(operator="getitem"), "needs `field`"),
        (value_variable(operator="split"), "needs `pattern`"),
        (value_variable(operator="regex"), "needs `pattern`"),
        (value_variable(operator="regex", pattern="("), "not a regular expression"),
        (value_variable(operator="regex", pattern="a+"), "no group"),
    ],
)
def test_a_variable_that_can_never_work_is_a_mistake_of_its_own(
    schema_document: Document, variable: Document, reason: str
) -> None:
    document = with_variable(schema_document, variable)
    found = mistakes(document)
    assert all(line.startswith("variables.it") for line in found)
    assert reason in " ".join(found)
    assert isinstance(Schema.model_validate(document).variables["it"], Unusable)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ({"pattern": "x"}, "replacement"),
        ({"replacement": "x"}, "pattern"),
        ({"pattern": "x", "replacement": None}, "replacement"),
    ],
)
def test_a_replacement_that_lacks_an_argument_is_named_and_left_out(
    schema_document: Document, arguments: Document, missing: str
) -> None:
    document = with_variable(schema_document, value_variable(operator="str-replace", **arguments))
    assert mistakes(document) == [
        f"variables.it.{missing}: is missing, so that str_replace leaves the value as it is."
    ]
    assert len(list(Schema.model_validate(document).oddities())) == 1


@pytest.mark.parametrize("name", [*OPERATORS, *(name.replace("_", "-") for name in OPERATORS)])
def test_every_operator_is_known_in_both_spellings(schema_document: Document, name: str) -> None:
    # The value is checked where the operator knows what it may be.
    variable = value_variable(operator=name, field=0, pattern="(a)", replacement="", value="<it>")
    found = Schema.model_validate(with_variable(schema_document, variable)).variables["it"]
    assert isinstance(found, ValueVariable)
    assert found.operator == name.replace("-", "_")
    assert found.arguments.field == 0
    assert found.arguments.pattern == "(a)"
    assert found.arguments.replacement == ""


@pytest.mark.parametrize("operator", [None, "", "DO_NOTHING"])
def test_no_operator_is_no_operator(schema_document: Document, operator: object) -> None:
    found = Schema.model_validate(
        with_variable(schema_document, value_variable(operator=operator))
    ).variables["it"]
    assert isinstance(found, ValueVariable)
    assert found.operator == ""


def test_the_key_zero_is_a_key(schema_document: Document) -> None:
    # 0 is false in Python, and the most frequent index.
    for field in (0, "0", "pid"):
        variable = value_variable(operator="getitem", field=field)
        found = Schema.model_validate(with_variable(schema_document, variable)).variables["it"]
        assert isinstance(found, ValueVariable)
        assert found.field == field
        assert type(found.field) is type(field)


def test_a_number_to_be_replaced_is_its_text(schema_document: Document) -> None:
    variable = value_variable(operator="str-replace", pattern=4, replacement=5)
    found = Schema.model_validate(with_variable(schema_document, variable)).variables["it"]
    assert isinstance(found, ValueVariable)
    assert (found.arguments.pattern, found.arguments.replacement) == ("4", "5")


def test_a_star_alone_is_a_wildcard_and_no_expression(schema_document: Document) -> None:
    document = with_variable(
        schema_document, {"source": "NXS", "path": "/*/user_*/name", "value_type": "string[]"}
    )
    found = Schema.model_validate(document).variables["it"]
    assert isinstance(found, NexusVariable)
    assert found.path == "/*/user_*/name"


# --- Field assignments


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"field_type": "low_level"}, "field_type"),
        ({"machine_name": "beamtime"}, "'beamtime' is not a field of a SciCat dataset"),
        ({"machine_name": "location"}, "did you mean creationLocation?"),
        ({"machine_name": "ownergroup"}, "did you mean ownerGroup?"),
        ({"machine_name": ""}, "machine_name"),
        ({"field_type": "scientific_metadata", "machine_name": ""}, "machine_name"),
        # Texts of another kind would kill the server that they are sent to.
        ({"field_type": "scientific_metadata", "human_name": ["a"]}, "human_name"),
        ({"field_type": "scientific_metadata", "human_name": {"a": 1}}, "human_name"),
        ({"type": "text"}, "type"),
    ],
)
def test_a_field_that_can_never_be_sent_is_a_mistake_of_its_own(
    schema_document: Document, changes: Document, reason: str
) -> None:
    (found,) = mistakes(with_field(schema_document, **changes))
    assert found.startswith("schema.it")
    assert reason in found
    schema = Schema.model_validate(with_field(schema_document, **changes))
    assert list(schema.unusable_fields) == ["it"]
    assert list(schema.assignments) == list(schema_document["schema"])


@pytest.mark.parametrize("key", ["field_type", "machine_name", "value", "type"])
def test_a_field_without_what_it_needs_is_a_mistake_of_its_own(schema_document: Document, key: str) -> None:
    document = with_field(schema_document)
    del document["schema"]["it"][key]
    assert mistakes(document) == [f"schema.it.{key}: is missing."]


@pytest.mark.parametrize(
    "name",
    [
        "pid", "type", "datasetName", "description", "keywords", "techniques", "relationships",
        "datasetlifecycle", "comment", "dataQualityMetrics", "jobParameters", "jobLogData", "isPublished",
        "runNumber", "startTime", "endTime", "orcidOfOwner", "sourceFolderHost", "dataFormat", "license",
        "classification", "validationStatus", "sharedWith", "instrumentId", "proposalId", "sampleId",
        "accessGroups", "instrumentGroup", "scientificMetadataSchema", "principalInvestigators",
        "proposalIds", "instrumentIds", "sampleIds",
    ],
)  # fmt: skip
def test_every_field_of_the_api_may_be_filled(schema_document: Document, name: str) -> None:
    assert mistakes(with_field(schema_document, machine_name=name)) == []


def test_any_name_may_be_an_entry_of_the_scientific_metadata(schema_document: Document) -> None:
    document = with_field(schema_document, field_type="scientific_metadata", machine_name="beamtime")
    assert Schema.model_validate(document).assignments["it"].machine_name == "beamtime"


# --- References


def reference_mistakes(document: Document, variables: Document, value: str = "x") -> list[str]:
    changed = with_field({**document, "variables": variables}, value=value)
    return [str(found) for found in Schema.model_validate(changed).reference_mistakes()]


def test_references_to_what_is_defined_before_are_no_mistake(schema_document: Document) -> None:
    variables = {
        "a": {"source": "NXS", "path": "/<not rendered>", "value_type": "string"},
        "b": value_variable(value=["<a>", {"x": "<data_file_path>"}]),
        "c": {"source": "SC", "url": "proposals/<b>", "value_type": "string"},
    }
    assert reference_mistakes(schema_document, variables, "<a><b><c><now><message_job_id>") == []


@pytest.mark.parametrize(
    ("variables", "value", "expected"),
    [
        ({"a": value_variable(value="<a>")}, "x", "variables.a: uses itself (<a>), which is circular"),
        (
            {"a": value_variable(value="<b>"), "b": value_variable(value="<a>")},
            "x",
            "variables.a: uses <b>, which uses <a>: that is circular",
        ),
        (
            {"a": value_variable(value=["<b>"]), "b": value_variable()},
            "x",
            "variables.a: uses <b>, which is defined after it; move it up",
        ),
        ({"a": value_variable(value="<gone>")}, "x", "variables.a: uses <gone>, which is not defined"),
        (
            {"a": {"source": "SC", "url": "proposals/<gone>", "value_type": "dict"}},
            "x",
            "variables.a: uses <gone>, which is not defined",
        ),
        ({}, "on <gone>", "schema.it: uses <gone>, which is not defined"),
    ],
)
def test_a_reference_that_can_never_be_resolved_is_found(
    schema_document: Document, variables: Document, value: str, expected: str
) -> None:
    found = reference_mistakes(schema_document, variables, value)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_longer_circle_is_found(schema_document: Document) -> None:
    variables = {
        "a": value_variable(value="<b>"),
        "b": value_variable(value="<c>"),
        "c": value_variable(value="<a>"),
    }
    found = reference_mistakes(schema_document, variables)
    assert [line.split(":")[0] for line in found] == ["variables.a", "variables.b"]


def test_a_preview_is_switched_off_tuned_or_refused_alone() -> None:
    def preview(written: Any) -> PreviewDefinition | Unusable:
        return Schema.model_validate(
            {"id": "a", "name": "a", "order": 1, "selector": "*", "preview": written}
        ).preview

    assert preview(None) == PreviewDefinition()
    assert preview(False) == PreviewDefinition(enabled=False)
    tuned = preview({"path": "/entry/data", "scale": "log", "percentiles": [1, 99]})
    assert tuned == PreviewDefinition(path="/entry/data", scale="log", percentiles=(1, 99))
    for mistake in ({"scale": "cubic"}, {"percentiles": [99, 1]}, "often"):
        assert isinstance(preview(mistake), Unusable)


def test_a_title_of_a_preview_with_an_unknown_variable_is_named() -> None:
    schema = Schema.model_validate(
        {"id": "a", "name": "a", "order": 1, "selector": "*", "preview": {"title": "<nobody>"}}
    )

    (mistake,) = schema.reference_mistakes()
    assert str(mistake) == "preview: uses <nobody>, which is not defined."
    assert mistake.key == "title"


# --- Several datasets of one file


def test_the_paths_of_an_entry_s_dataset_are_its_own(schema_document: Document) -> None:
    path = {"source": "NXS", "path": "/<entry>/title", "value_type": "string"}
    sample = {"query_sample_name": True, "sample_name_path": "/<entry>/sample/name"}
    document = {**with_variable(schema_document, path), "entries": "*", "sample_attachment": sample}
    schema = Schema.model_validate(document).for_entry("raw_data_1")

    variable, attachment, preview = schema.variables["it"], schema.sample_attachment, schema.preview
    assert isinstance(variable, NexusVariable)
    assert variable.path == "/raw_data_1/title"
    assert not isinstance(attachment, Unusable)
    assert attachment.sample_name_path == "/raw_data_1/sample/name"
    assert not isinstance(preview, Unusable)
    assert preview.path == "/raw_data_1"


def test_the_entry_can_be_used_where_there_is_one(schema_document: Document) -> None:
    document = with_variable(schema_document, value_variable(value="of <entry>"))
    assert Schema.model_validate({**document, "entries": "*"}).reference_mistakes() == []
    (found,) = Schema.model_validate(document).reference_mistakes()
    assert "<entry>, which is not defined" in found.what


def test_an_entry_in_a_path_needs_entries_and_they_need_it(schema_document: Document) -> None:
    path = {"source": "NXS", "path": "/<entry>/title", "value_type": "string"}
    (found,) = mistakes(with_variable(schema_document, path))
    assert found.startswith("variables.it: has <entry> in its path")
    (found,) = mistakes({**schema_document, "entries": "*"})
    assert found.startswith("entries: is given, but no path has <entry>")
