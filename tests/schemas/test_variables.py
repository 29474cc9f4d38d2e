"""Variables: from a NeXus file, from the catalogue, from one another, and what becomes of those that fail."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pydantic import JsonValue

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.isolated.hdf5 import NexusFile, open_nexus
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.rendering import Value
from scicat_dagster.schemas.variables import Evaluation, evaluate_variables

Document = dict[str, Any]
Evaluate = Callable[..., Evaluation]

BUILT_IN = {"data_file_path": Value("/data/odin/443503/raw/run.hdf"), "data_file_name": Value("run.hdf")}


@dataclass
class FakeCatalogue:
    """Answers what it was given; anything else it does not have."""

    answers: dict[str, JsonValue | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def fetch(self, url: str) -> JsonValue:
        self.asked.append(url)
        answer = self.answers.get(url, LookupError(f"The catalogue has no {url}."))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def catalogue() -> FakeCatalogue:
    return FakeCatalogue()


@pytest.fixture
def nexus(tmp_path: Path) -> Iterator[NexusFile]:
    path = tmp_path / "run.hdf"
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry["title"] = "odin"
        entry["experiment_identifier"] = "443503"
        entry["start_time"] = "2024-10-28T09:18:14.376Z"
        entry["epoch"] = 1730107094.376
        entry["temperature"] = 300.5
        entry["temperature"].attrs["units"] = "K"
        entry["plain"] = 7
        entry["one"] = [5.0]
        entry["unitless"] = 0.5
        entry["unitless"].attrs["units"] = ""
        entry["odd_unit"] = 1.5
        entry["odd_unit"].attrs["units"] = 7
        entry["single"] = np.array([22.249], "f4")
        entry.create_dataset("empty", (0,), "f4")
        entry["many"] = [1.0, 2.0, 6.0]
        entry["many"].attrs["units"] = "mm"
        entry["nan"] = [np.nan, 1.0]
        entry["list_text"] = "['a', 'b']"
        entry["latin"] = np.bytes_(b"K\xf6nnecke")
        entry["reference"] = entry.ref
        for name in ("Ada", "Bo"):
            entry[f"user_{name}/name"] = name
        for number in (1, 2):
            entry[f"slit_{number}/gap"] = number / 2
            entry[f"slit_{number}/gap"].attrs["units"] = "mm"
    with open_nexus(path) as opened:
        yield opened


@pytest.fixture
def evaluate(schema_document: Document, nexus: NexusFile, catalogue: FakeCatalogue) -> Evaluate:
    def evaluate_these(**variables: Document) -> Evaluation:
        schema = Schema.model_validate({**copy.deepcopy(schema_document), "variables": variables})
        return evaluate_variables(schema, nexus, BUILT_IN, catalogue)

    return evaluate_these


def nxs(path: str, value_type: str = "string", **more: str) -> Document:
    return {"source": "NXS", "path": path, "value_type": value_type, **more}


def sc(url: str, key: str | int = "", value_type: str = "string") -> Document:
    return {"source": "SC", "url": url, "field": key, "value_type": value_type}


def val(value: object, value_type: str = "string", **more: object) -> Document:
    return {"source": "VALUE", "value": value, "value_type": value_type, **more}


def reasons(evaluation: Evaluation) -> dict[str, str]:
    return {notice.subject: notice.reason for notice in evaluation.notices}


# --- In addresses


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("proposals/<name>", "proposals/..%2Fusers%2F1%3Fa%26b"),
        ("proposals?filter=<name>", "proposals?filter=..%2Fusers%2F1%3Fa%26b"),
        # What the schema has quoted is not quoted again, and one reference alone is an address.
        ("proposals/<quoted>", "proposals/..%2Fusers%2F1%3Fa%26b"),
        ("<address>", "proposals/1?limit=1"),
    ],
)
def test_a_value_is_one_part_of_an_address(
    evaluate: Evaluate, catalogue: FakeCatalogue, url: str, asked: str
) -> None:
    evaluate(
        name=val("../users/1?a&b"),
        quoted=val("<name>", operator="urlsafe"),
        address=val("proposals/1?limit=1"),
        answer=sc(url),
    )

    assert catalogue.asked == [asked]


# --- From the file


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (nxs("/entry/title"), Value("odin")),
        (nxs("/entry/title", "string[]"), Value(["odin"])),
        (nxs("/entry/temperature", "float"), Value(300.5, "K")),
        (nxs("/entry/temperature", "float", unit="mK"), Value(300.5, "K")),
        (nxs("/entry/temperature", "string"), Value("300.5", "K")),
        (nxs("/entry/plain", "integer"), Value(7)),
        (nxs("/entry/plain", "integer", unit="counts"), Value(7, "counts")),
        (nxs("/entry/one", "float"), Value(5.0)),
        (nxs("/entry/one", "float[]"), Value([5.0])),
        (nxs("/entry/one", "list"), Value([5.0])),
        (nxs("/entry/many", "float[]"), Value([1.0, 2.0, 6.0], "mm")),
        (nxs("/entry/many", "integer[]"), Value([1, 2, 6], "mm")),
        (nxs("/entry/latin"), Value("Könnecke")),
        (nxs("/entry/start_time", "date"), Value("2024-10-28T09:18:14.376000+00:00")),
        (nxs("/entry/epoch", "date"), Value("2024-10-28T09:18:14.376000+00:00")),
        (nxs("/entry/experiment_identifier", "integer"), Value(443503)),
        (nxs("/entry/user_*/name", "string[]"), Value(["Ada", "Bo"])),
        (nxs("/entry/slit_*/gap", "float[]"), Value([0.5, 1.0], "mm")),
        (nxs("/entry/slit_*/gap", "float[]", unit="m"), Value([0.5, 1.0], "mm")),
        # The file's unit wins, the empty one as well.
        (nxs("/entry/unitless", "float", unit="mm"), Value(0.5, "")),
        (nxs("/entry/unitless", "float[]", unit="mm"), Value([0.5], "")),
        (nxs("/entry/single", "string[]"), Value(["22.249"])),
        (nxs("/entry/single", "string"), Value("22.249")),
        (nxs("/entry/single", "float"), Value(float(np.float32(22.249)))),
        (nxs("/entry/./title"), Value("odin")),
        (nxs("/entry/empty", "float[]"), Value([])),
        (nxs("/entry/empty", "list"), Value([])),
        (nxs("/entry/guest_*/name", "string[]"), Value([])),
        (nxs("/entry/guest_*/gap", "float[]"), Value([])),
    ],
)
def test_a_variable_is_what_the_file_holds(evaluate: Evaluate, definition: Document, expected: Value) -> None:
    found = evaluate(it=definition)
    assert found.notices == []
    assert found.values["it"] == expected
    assert type(found.values["it"].value) is type(expected.value)


def test_a_units_attribute_that_cannot_be_used_costs_the_unit_alone(evaluate: Evaluate) -> None:
    found = evaluate(it=nxs("/entry/odd_unit", "float", unit="mm"))
    assert found.values["it"] == Value(1.5, "")
    assert reasons(found) == {"variables.it.unit": "The units attribute of /entry/odd_unit is not one text."}


def test_what_is_made_of_nothing_is_empty(evaluate: Evaluate) -> None:
    found = evaluate(
        names=nxs("/entry/guest_*/name", "string[]"),
        joined=val("<names>", operator="join_with_space"),
        numbers=nxs("/entry/empty", "float[]"),
        total=val("<numbers>", "float", operator="sum"),
    )
    assert found.notices == []
    assert found.values["joined"] == Value("")
    assert found.values["total"] == Value(0.0)


def test_a_number_is_a_plain_one(evaluate: Evaluate) -> None:
    found = evaluate(a=nxs("/entry/plain", "integer"), b=nxs("/entry/nan", "float[]")).values
    assert type(found["a"].value) is int
    assert all(type(item) is float for item in found["b"].value)
    assert math.isnan(found["b"].value[0])


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (nxs("/entry/missing"), "no dataset at /entry/missing"),
        (nxs("/entry/many", "float"), "holds 3 values"),
        (nxs("/entry/user_*/name"), "2 datasets match"),
        (nxs("/entry/title", "integer"), "'odin' is not an integer"),
        (nxs("/entry/title", "date"), "'odin' is not an ISO 8601 date"),
        (nxs("/entry/reference"), "cannot hold"),
        (val("x", "integer"), "not an integer"),
        (val("<missing>"), "<missing>, which is not defined before it"),
        (val("<it>"), "<it>, which is not defined before it"),
        (val("<2theta>"), "<2theta>, which is not defined before it"),
        (val({"<proposal id>": "x"}, "dict"), "<proposal id>, which is not defined before it"),
        (val([1, 2], operator="getitem", field=9), "The operator getitem: has no item 9"),
        (val({"a": 1}, operator="getitem", field="b"), "The operator getitem: has no key 'b'"),
        (val(5, "float", operator="sum"), "The operator sum: needs a list"),
        (val([], operator="first"), "The operator first: is an empty list"),
        (val("<data_file_path>", operator="regex", pattern="run_(.)"), "does not match"),
        (sc("proposals/1", "title"), "The catalogue has no proposals/1."),
    ],
)
def test_a_variable_that_fails_is_noted_with_its_reason(
    evaluate: Evaluate, definition: Document, reason: str
) -> None:
    found = evaluate(it=definition, other=nxs("/entry/title"))
    assert "it" not in found.values
    assert found.values["other"] == Value("odin")
    assert list(reasons(found)) == ["variables.it"]
    assert reason in reasons(found)["variables.it"]


def test_what_needed_a_variable_that_failed_is_noted_with_the_first_reason(evaluate: Evaluate) -> None:
    found = evaluate(
        a=nxs("/entry/missing"),
        b=val("x <a>"),
        c=sc("proposals/<b>", "title"),
        d=val("fine"),
    )
    assert list(found.values) == [*BUILT_IN, "d"]
    assert list(reasons(found)) == ["variables.a", "variables.b", "variables.c"]
    assert reasons(found)["variables.b"].startswith("It needs <a>, which failed: There is no dataset")
    assert "no dataset at /entry/missing" in reasons(found)["variables.c"]


@pytest.mark.parametrize("name", ["2theta", "größe", "sample temp", " padded "])
def test_a_variable_that_failed_is_never_its_name_as_text(evaluate: Evaluate, name: str) -> None:
    found = evaluate(**{name: nxs("/entry/missing"), "it": val(f"x <{name}>")})
    assert "it" not in found.values
    assert reasons(found)["variables.it"].startswith(f"It needs <{name}>, which failed: There is no dataset")


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (val("x", "quantity"), "'quantity' is not known"),
        (val("x", "str"), "did you mean string?"),
        (val("x", operator="reverse"), "unknown operator 'reverse'"),
        (val("x", operator="split"), "the operator split needs `pattern`"),
        ({"source": "FILE", "value_type": "string"}, "unknown source 'FILE'"),
        ({"source": "VALUE", "valeu": "x", "value_type": "string"}, "did you mean value?"),
    ],
)
def test_a_definition_that_cannot_be_used_fails_alone(
    evaluate: Evaluate, definition: Document, reason: str
) -> None:
    found = evaluate(it=definition, user=val("x <it>"), other=nxs("/entry/title"))
    assert found.values["other"] == Value("odin")
    assert list(reasons(found)) == ["variables.it", "variables.user"]
    assert reason in reasons(found)["variables.it"]
    assert reasons(found)["variables.user"].startswith("It needs <it>, which failed: ")


def test_a_chain_of_failures_names_the_first_one_once(evaluate: Evaluate) -> None:
    found = evaluate(a=nxs("/nowhere"), b=val("<a>"), c=val("<b>"), d=val("<c>"))

    first = reasons(found)["variables.a"]
    assert [reasons(found)[f"variables.{name}"] for name in "bcd"] == [
        f"It needs <a>, which failed: {first}"
    ] * 3


@pytest.mark.parametrize("arguments", [{}, {"pattern": "o"}, {"replacement": "0"}])
def test_a_replacement_without_its_arguments_leaves_the_value(
    evaluate: Evaluate, arguments: Document
) -> None:
    found = evaluate(it=val([1, 2], "list", operator="str-replace", **arguments))
    assert found.values["it"] == Value([1, 2])


def test_a_variable_of_a_schema_takes_the_place_of_a_built_in_one(evaluate: Evaluate) -> None:
    found = evaluate(data_file_name=val("my <data_file_name>"), it=val("<data_file_name>"))
    assert found.notices == []
    assert found.values["it"] == Value("my run.hdf")


@pytest.mark.parametrize("definition", [nxs("/entry/missing"), {"source": "FILE"}])
def test_where_it_fails_the_built_in_one_does_not_stand_in(evaluate: Evaluate, definition: Document) -> None:
    found = evaluate(data_file_name=definition, it=val("<data_file_name>"))
    assert "it" not in found.values
    assert "which failed" in reasons(found)["variables.it"]


def test_variables_that_need_each_other_fail_and_no_other_does(evaluate: Evaluate) -> None:
    found = evaluate(a=val("<b>"), b=val("<a>"), c=val("<data_file_name>"))
    assert found.values["c"] == Value("run.hdf")
    assert set(reasons(found)) == {"variables.a", "variables.b"}


def test_a_failed_one_does_not_take_the_value_of_an_earlier_file(evaluate: Evaluate) -> None:
    first = evaluate(a=nxs("/entry/title"))
    second = evaluate(a=nxs("/entry/missing"))
    assert "a" in first.values
    assert "a" not in second.values
    assert set(BUILT_IN) == {"data_file_path", "data_file_name"}


# --- From other variables


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (val("<t>", "float"), Value(300.5, "K")),
        (val("at <t>"), Value("at 300.5")),
        (val(["<t>", "<t>"], "float[]"), Value([300.5, 300.5], "K")),
        (val([1, 2, 3], "integer[]"), Value([1, 2, 3])),
        (val([1, 2, 3], "integer", operator="sum"), Value(6)),
        (val(5, "integer"), Value(5)),
        (val({"a": "<t>", "b": ["<n>"]}, "dict"), Value({"a": 300.5, "b": ["odin"]})),
        (val({"<n>": "x"}, "dict"), Value({"odin": "x"})),
        (val(True), Value("true")),
        (val(False, operator="to-upper"), Value("FALSE")),
        (val("1 < 2 and 3 > 2"), Value("1 < 2 and 3 > 2")),
        (val("<m>", "float", operator="sum"), Value(9.0, "mm")),
        (val("<m>", "float", operator="max"), Value(6.0, "mm")),
        (val("<m>", "float", operator="min"), Value(1.0, "mm")),
        (val("<m>", "float", operator="mean"), Value(3.0, "mm")),
        (val("<m>", "float", operator="first"), Value(1.0, "mm")),
        (val("<m>", "float", operator="last"), Value(6.0, "mm")),
        (val("<m>", "integer", operator="length"), Value(3)),
        (val("<m>", "float", operator="getitem", field=1), Value(2.0, "mm")),
        (val("<u>", operator="join_with_space"), Value("Ada, Bo")),
        (val("<u>", operator="join-with-space"), Value("Ada, Bo")),
        (val("<data_file_path>", operator="filename"), Value("run.hdf")),
        (val("<data_file_path>", operator="dirname"), Value("/data/odin/443503/raw")),
        (val("<data_file_path>", operator="dirname-2"), Value("/data/odin/443503")),
        (val("<data_file_path>", operator="dirname_2"), Value("/data/odin/443503")),
        (val("<n>", operator="to-upper"), Value("ODIN")),
        (val("<m>", "float[]", operator="DO_NOTHING"), Value([1.0, 2.0, 6.0], "mm")),
        (val("<n>", operator="str-replace", pattern="o", replacement="0"), Value("0din")),
        (val("a b/c", operator="urlsafe"), Value("a+b%2Fc")),
        (val("a;b", "string[]", operator="split", pattern=";"), Value(["a", "b"])),
        (val("<data_file_path>", "integer", operator="regex", pattern=r"/(\d+)/"), Value(443503)),
        (val("['a', 'b']", "string[]"), Value(["a", "b"])),
        (val('{"a": [1]}', "dict"), Value({"a": [1]})),
        (val(None, "none"), Value(None)),
    ],
)
def test_a_variable_is_put_together_from_others(
    evaluate: Evaluate, definition: Document, expected: Value
) -> None:
    found = evaluate(
        t=nxs("/entry/temperature", "float"),
        m=nxs("/entry/many", "float[]"),
        n=nxs("/entry/title"),
        u=nxs("/entry/user_*/name", "string[]"),
        it=definition,
    )
    assert found.notices == []
    assert found.values["it"] == expected


def test_a_value_that_holds_itself_is_noted(evaluate: Evaluate) -> None:
    circle: list[object] = []
    circle.append(circle)
    found = evaluate(a=val(circle, "list"), b=val("fine"))
    assert list(reasons(found)) == ["variables.a"]
    assert found.values["b"] == Value("fine")


def test_numbers_beyond_a_double_are_noted(evaluate: Evaluate) -> None:
    found = evaluate(a=val([10**400, 0.5], "float", operator="sum"))
    assert list(reasons(found)) == ["variables.a"]


# --- From the catalogue


def test_the_same_address_is_asked_once_for_a_file(evaluate: Evaluate, catalogue: FakeCatalogue) -> None:
    catalogue.answers["proposals/443503"] = {"firstname": "Ada", "lastname": "Lovelace", "year": 1843}
    found = evaluate(
        p=nxs("/entry/experiment_identifier"),
        first=sc("proposals/<p>", "firstname"),
        last=sc("proposals/<p>", "lastname"),
        year=sc("proposals/443503", "year", "integer"),
        everything=sc("proposals/<p>", "", "dict"),
    )
    assert catalogue.asked == ["proposals/443503"]
    assert found.values["first"] == Value("Ada")
    assert found.values["last"] == Value("Lovelace")
    assert found.values["year"] == Value(1843)
    assert found.values["everything"].value == catalogue.answers["proposals/443503"]


def test_the_same_address_is_asked_once_even_where_there_is_nothing(
    evaluate: Evaluate, catalogue: FakeCatalogue
) -> None:
    found = evaluate(a=sc("proposals/1", "x"), b=sc("proposals/1", "y"), c=sc("proposals/1", "z"))
    assert catalogue.asked == ["proposals/1"]
    assert set(reasons(found).values()) == {"The catalogue has no proposals/1."}


def test_the_catalogue_is_asked_again_for_the_next_file(evaluate: Evaluate, catalogue: FakeCatalogue) -> None:
    catalogue.answers["proposals/1"] = {"title": "old"}
    evaluate(a=sc("proposals/1", "title"))
    catalogue.answers["proposals/1"] = {"title": "new"}
    assert evaluate(a=sc("proposals/1", "title")).values["a"] == Value("new")


@pytest.mark.parametrize(
    ("answer", "key", "expected"),
    [
        ({"a": 1}, "a", Value("1")),
        ({"0": "zero"}, 0, Value("zero")),
        ([{"a": 1}, "two"], 1, Value("two")),
        ("text", "", Value("text")),
    ],
)
def test_a_field_picks_one_part_of_the_answer(
    evaluate: Evaluate, catalogue: FakeCatalogue, answer: JsonValue, key: str | int, expected: Value
) -> None:
    catalogue.answers["x"] = answer
    assert evaluate(it=sc("x", key)).values["it"] == expected


@pytest.mark.parametrize(
    ("answer", "key", "reason"),
    [
        ({"a": 1}, "b", "without the field 'b'"),
        # An empty proposal id asks for all proposals: the catalogue answers with the list of them.
        ([{"a": 1}], "a", "a list of 1 without the field 'a'"),
        ([], 0, "SciCat has no entry for proposals/"),
        ([], -1, ""),
        (None, "a", "without the field 'a'"),
        ("text", "a", "without the field 'a'"),
        ({"a": None}, "a", "no value"),
        (None, "", "no value"),
    ],
)
def test_an_answer_without_the_field_is_noted(
    evaluate: Evaluate, catalogue: FakeCatalogue, answer: JsonValue, key: str | int, reason: str
) -> None:
    catalogue.answers["proposals/"] = answer
    found = evaluate(it=sc("proposals/", key))
    assert "it" not in found.values
    assert reason in reasons(found)["variables.it"]


def test_nothing_is_asked_for_an_address_that_cannot_be_built(
    evaluate: Evaluate, catalogue: FakeCatalogue
) -> None:
    evaluate(a=nxs("/entry/missing"), b=sc("proposals/<a>", "title"))
    assert catalogue.asked == []


@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_a_catalogue_that_is_away_stops_the_evaluation(
    evaluate: Evaluate, catalogue: FakeCatalogue, kind: type[TransientError | PermanentError]
) -> None:
    catalogue.answers["x"] = kind("The catalogue is away.", remedy="Wait.")
    with pytest.raises(kind, match="away"):
        evaluate(a=sc("x", "title"), b=val("fine"))


def test_built_in_variables_are_there_first_and_stay_as_they_were(evaluate: Evaluate) -> None:
    found = evaluate(a=val("<data_file_name>"))
    assert found.values["a"] == Value("run.hdf")
    assert {name: found.values[name] for name in BUILT_IN} == BUILT_IN
    assert set(BUILT_IN) == {"data_file_path", "data_file_name"}
