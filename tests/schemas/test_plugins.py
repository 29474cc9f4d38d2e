"""Operators of a facility's own package: a real one, installed in a folder on the path as pip would do it."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from scicat_dagster.cli import main
from scicat_dagster.errors import Notice
from scicat_dagster.files.reading import Contents
from scicat_dagster.schemas.json_schema import imsc_schema
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.schemas.models import Schema, Unusable
from scicat_dagster.schemas.plugins import GROUP, INGESTOR_GROUP, names_taken, offered, operator_names
from scicat_dagster.schemas.rendering import Value
from scicat_dagster.schemas.variables import Evaluation, evaluate_variables

Document = dict[str, Any]

CODE = """
import sys
import numpy as np

def d_spacing(value):
    return [12.398 / energy for energy in value]

def labelled(value, *, field=None, pattern=None, replacement=None):
    return {"value": value, "field": field, "pattern": pattern, "replacement": replacement}

def doubled(value):
    return value * 2
doubled.keeps_unit = True

def spoilt(value):
    value.clear()
    return "done"

statistics = np.std
number = np.int64
array = lambda value: {"a": np.array(value, dtype="f4"), "b": (np.bool_(True), float("nan"))}

def raises(value):
    return 1 / 0

def leaves(value):
    sys.exit(3)

def endless(value):
    return endless(value)

class Odd:
    pass

odd = lambda value: Odd()
a_set = lambda value: {1, 2}
circle = lambda value: [_circle]
_circle = []
_circle.append(_circle)
half = lambda value: "\\ud800"
nothing = lambda value: None
not_a_function = 7
"""
NAMES = (
    "d_spacing", "labelled", "doubled", "spoilt", "statistics", "number", "array", "raises", "leaves",
    "endless", "odd", "a_set", "circle", "half", "nothing", "not_a_function",
)  # fmt: skip

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of these entry points and this code, and forget it afterwards."""
    modules = []

    def install_package(
        name: str, entries: Mapping[str, str], code: str | None = None, group: str = GROUP
    ) -> None:
        site = tmp_path / name
        module = name.replace("-", "_")
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{operator} = {place}\n" for operator, place in entries.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        if code is not None:
            (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        modules.append(module)
        importlib.invalidate_caches()
        offered.cache_clear()

    yield install_package
    for module in modules:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    offered.cache_clear()


@pytest.fixture
def vespa(install: Install) -> None:
    install("vespa-operators", {name.replace("_", "-"): f"vespa_operators:{name}" for name in NAMES}, CODE)


def variable(operator: str, given: Any = "x", kind: str = "list", **arguments: Any) -> Document:
    return {"source": "VALUE", "value": given, "operator": operator, "value_type": kind, **arguments}


def evaluated(document: Document, variables: Document, built_in: Mapping[str, Value] = {}) -> Evaluation:
    class NoCatalogue:
        def fetch(self, url: str) -> Any:
            raise AssertionError(url)

    schema = Schema.model_validate({**document, "variables": variables})
    return evaluate_variables(schema, Contents({}), built_in, NoCatalogue())


@pytest.mark.usefixtures("vespa")
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (variable("d_spacing", [12.398, 6.199]), [1.0, 2.0]),
        (variable("d-spacing", [12.398]), [1.0]),
        (
            variable("labelled", "x", "dict", field=1, pattern="p", replacement="r"),
            {"value": "x", "field": 1, "pattern": "p", "replacement": "r"},
        ),
        (
            variable("labelled", "x", "dict", pattern="p"),
            {"value": "x", "field": None, "pattern": "p", "replacement": None},
        ),
        (variable("statistics", [1, 3], "float"), 1.0),
        (variable("number", "7", "integer"), 7),
    ],
)
def test_a_function_of_a_package_is_an_operator(
    schema_document: Document, written: Document, expected: Any
) -> None:
    found = evaluated(schema_document, {"v": written})

    assert found.notices == []
    assert found.values["v"] == Value(expected)


@pytest.mark.usefixtures("vespa")
def test_numpys_values_become_json_at_any_depth(schema_document: Document) -> None:
    found = evaluated(schema_document, {"v": variable("array", [1, 2], "dict")}).values["v"].value

    assert found["a"] == [1.0, 2.0]
    assert found["b"][0] is True
    assert math.isnan(found["b"][1])


@pytest.mark.usefixtures("vespa")
def test_a_unit_is_kept_where_the_function_says_so(schema_document: Document) -> None:
    mass = {"mass": Value(1.5, "g"), "masses": Value([1.5], "g")}
    variables = {
        "v": variable("doubled", "<mass>", "float"),
        "w": variable("statistics", "<masses>", "float"),
    }

    found = evaluated(schema_document, variables, mass).values

    assert (found["v"], found["w"]) == (Value(3.0, "g"), Value(0.0))


@pytest.mark.usefixtures("vespa")
def test_a_function_cannot_change_the_value_of_another_variable(schema_document: Document) -> None:
    names = {"names": Value(["a", "b"])}
    found = evaluated(schema_document, {"v": variable("spoilt", "<names>", "string")}, names)

    assert found.values["v"] == Value("done")
    assert found.values["names"] == Value(["a", "b"])


@pytest.mark.usefixtures("vespa")
@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (variable("raises"), "the package vespa-operators 1.2 failed: ZeroDivisionError: division by zero"),
        (variable("leaves"), "the package vespa-operators 1.2 failed: SystemExit: 3"),
        (variable("endless"), "the package vespa-operators 1.2 failed: RecursionError"),
        (variable("d_spacing", [1], field=2), "the package vespa-operators 1.2 failed: TypeError"),
        (
            variable("odd"),
            "the package vespa-operators 1.2 returned what is not JSON: a value of the type Odd",
        ),
        (variable("a_set"), "returned what is not JSON: a value of the type set"),
        (variable("circle"), "returned what is not JSON: Circular reference"),
        (variable("half", kind="string"), "returned what is not JSON"),
        (variable("not_a_function"), "not_a_function of the package vespa-operators 1.2 is not a function"),
        (variable("nothing"), "there is no value"),
    ],
)
def test_what_goes_wrong_in_a_package_costs_one_variable(
    schema_document: Document, written: Document, reason: str
) -> None:
    found = evaluated(schema_document, {"v": written, "good": variable("", [1]), "user": variable("", "<v>")})

    first, second = found.notices
    assert first.subject == "variables.v"
    assert reason in first.reason
    assert second == Notice(subject="variables.user", reason=f"It needs <v>, which failed: {first.reason}")
    assert found.values == {"good": Value([1])}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import module_that_is_not_there",
            "ModuleNotFoundError: No module named 'module_that_is_not_there'",
        ),
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("raise SystemExit", "SystemExit"),
        ("def f(:", "SyntaxError"),
        ("", "AttributeError"),
        (None, "ModuleNotFoundError"),
    ],
)
def test_a_package_that_cannot_be_imported_costs_one_variable_and_is_named(
    schema_document: Document, install: Install, code: str | None, reason: str
) -> None:
    install("broken-operators", {"f": "broken_operators:f"}, code)

    found = evaluated(schema_document, {"v": variable("f"), "good": variable("", [1])})

    (notice,) = found.notices
    assert notice.subject == "variables.v"
    assert "the package broken-operators 1.2 cannot be imported" in notice.reason
    assert reason in notice.reason
    assert "good" in found.values


def test_two_packages_with_the_same_operator_are_both_named(
    schema_document: Document, install: Install
) -> None:
    for name in ("one-operators", "two-operators"):
        install(name, {"f": f"{name.replace('-', '_')}:f"}, "def f(value): return value")

    (notice,) = evaluated(schema_document, {"v": variable("f")}).notices

    assert "several packages offer it: one-operators 1.2, two-operators 1.2" in notice.reason


def test_a_damaged_package_costs_no_schema_and_is_reported(
    tmp_path: Path, schema_document: Document, install: Install
) -> None:
    install("damaged", {"f": "damaged:f"})
    (tmp_path / "damaged" / "damaged-1.2.dist-info" / "entry_points.txt").write_text(
        "[any]\nno equals sign\n"
    )
    offered.cache_clear()
    (tmp_path / "schemas").mkdir()
    document = {**schema_document, "variables": {"v": variable("f"), "good": variable("sum", [1])}}
    (tmp_path / "schemas" / "odin.imsc.yml").write_text(yaml.safe_dump(document, sort_keys=False))
    config = tmp_path / "config.yml"
    config.write_text("scicat: {host: 'https://h', token: x}\ningestion: {schemas_directory: schemas}\n")

    schema = load_schemas(tmp_path / "schemas").select("/data/run.hdf")
    result = CliRunner().invoke(main, ["validate", str(config)])

    assert isinstance(schema.variables["v"], Unusable)
    assert not isinstance(schema.variables["good"], Unusable)
    assert "No operator of a package can be used" in result.output
    assert "variables.v.operator: what the installed packages declare cannot be read" in result.output


def test_functions_for_the_existing_ingestor_are_operators_unless_built_in(
    schema_document: Document, install: Install
) -> None:
    install("theirs", {"max": "numpy:min", "median": "numpy:median"}, group=INGESTOR_GROUP)

    found = evaluated(
        schema_document, {"a": variable("max", [1, 2], "float"), "b": variable("median", [1, 2, 9], "float")}
    )

    assert (found.values["a"], found.values["b"]) == (Value(2.0), Value(2.0))
    assert names_taken() == []


def test_a_schema_that_travels_to_where_the_package_is_not_loses_the_variable_only(
    schema_document: Document, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("vespa-operators", {"d_spacing": "vespa_operators:d_spacing"}, CODE)
    schema = Schema.model_validate({**schema_document, "variables": {"v": variable("d_spacing", [1])}})
    stored = schema.model_dump_json(by_alias=True)
    monkeypatch.undo()
    offered.cache_clear()

    read = Schema.model_validate_json(stored).variables["v"]

    assert isinstance(read, Unusable)
    assert "unknown operator 'd_spacing'" in read.reason


@pytest.mark.usefixtures("vespa")
def test_editors_know_the_operators_that_are_installed() -> None:
    known = imsc_schema()["$defs"]["ValueVariable"]["properties"]["operator"]["enum"]

    assert {"d_spacing", "d-spacing", "sum"} <= set(known)
    assert "d_spacing" in operator_names()


def test_validate_names_the_nearest_operator_and_packages_that_cannot_be_used(
    tmp_path: Path, schema_document: Document, install: Install
) -> None:
    install("vespa-operators", {"d_spacing": "vespa_operators:d_spacing", "sum": "vespa_operators:f"}, CODE)
    install("broken-operators", {"f": "broken_operators:f"}, "import module_that_is_not_there")
    (tmp_path / "schemas").mkdir()
    variables = {"a": variable("d_spacings"), "b": variable("summ"), "c": variable("f"), "d": variable("sum")}
    schema = tmp_path / "schemas" / "odin.imsc.yml"
    schema.write_text(yaml.safe_dump({**schema_document, "variables": variables}, sort_keys=False))
    config = tmp_path / "config.yml"
    config.write_text("scicat: {host: 'https://h', token: x}\ningestion: {schemas_directory: schemas}\n")

    result = CliRunner().invoke(main, ["validate", str(config)])

    assert result.exit_code == 1
    assert "unknown operator 'd_spacings'; did you mean d_spacing?" in result.output
    assert "unknown operator 'summ'; did you mean sum?" in result.output
    assert "variables.c: the operator f: the package broken-operators 1.2 cannot be imported" in result.output
    assert "The operator sum of the package vespa-operators 1.2 is not used" in result.output
    assert "variables.d" not in result.output
    assert load_schemas(tmp_path / "schemas").select("/data/run.hdf").name == "Odin"
