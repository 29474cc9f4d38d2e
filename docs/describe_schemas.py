"""Print the reference of the imsc language: ``python docs/describe_schemas.py``.

Keys, operators, types and fields are those of the package, and every result is computed here; a test compares
the page in ``docs/reference`` with what this prints. Only what no program knows is written here as prose.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from scicat_dagster.config.attribute_docs import attribute_docs
from scicat_dagster.dataset.fields import MANDATORY, RECOMMENDED
from scicat_dagster.files.isolated.hdf5 import open_nexus
from scicat_dagster.schemas import selection
from scicat_dagster.schemas.conversion import VALUE_TYPES, convert
from scicat_dagster.schemas.models import (
    BUILT_IN_VARIABLES,
    DATASET_FIELDS,
    ENTRY_VARIABLE,
    MESSAGE_VARIABLES,
    V4_LIST_FIELDS,
    FieldAssignment,
    NexusVariable,
    SampleAttachment,
    Schema,
    ScicatVariable,
    ValueVariable,
)
from scicat_dagster.schemas.operators import OPERATORS, Arguments
from scicat_dagster.schemas.rendering import UnresolvedError, Value, render
from scicat_dagster.schemas.selection import Match, read_selector
from scicat_dagster.usecases.schema_draft import IDENTIFIER, WHERE_FROM

PAGE = Path(__file__).parent / "reference" / "metadata-schemas.md"
VESPA = Path(__file__).parent / "tutorials" / "vespa" / "raw" / "700123_27.nxs"


@dataclasses.dataclass(frozen=True)
class Example:
    """What an operator is given in the example of the reference."""

    value: Any
    arguments: Arguments = dataclasses.field(default_factory=Arguments)


OPERATOR_EXAMPLES: Mapping[str, Example] = {
    "join_with_space": Example(["Marie Curie", "Lise Meitner"]),
    "filename": Example("/data/vespa/700123/raw/27.nxs"),
    "dirname": Example("/data/vespa/700123/raw/27.nxs"),
    "dirname_2": Example("/data/vespa/700123/raw/27.nxs"),
    "getitem": Example({"pid": "vespa-1", "name": "VESPA"}, Arguments(field="pid")),
    "str_replace": Example("700123_27.nxs", Arguments(pattern=".nxs", replacement="")),
    "urlsafe": Example('{"where":{"name":"VESPA"}}'),
    "to_lower": Example("VESPA"),
    "to_upper": Example("vespa"),
    "sum": Example([1, 2, 3.5]),
    "max": Example([10.1, 9.9, 10.3]),
    "min": Example([10.1, 9.9, 10.3]),
    "mean": Example([1, 2, 6]),
    "first": Example(["Marie Curie", "Lise Meitner"]),
    "last": Example(["Marie Curie", "Lise Meitner"]),
    "length": Example(["Marie Curie", "Lise Meitner"]),
    "split": Example("ice; H2O; 10 K", Arguments(pattern="; ")),
    "regex": Example("Ice Ih at 10 K, run 27 of 40", Arguments(pattern="run ([0-9]+)")),
    "panet": Example("small angle neutron scattering", Arguments()),
}
"""By the operator's canonical name."""

TYPE_EXAMPLES: Mapping[str, tuple[Any, ...]] = {
    "string": ("ice", 27, [1, 2]),
    "string[]": (["ice", 27], "ice", "['ice', 'water']"),
    "integer": ("27", 27.9, "ice"),
    "integer[]": ([1, "2"], 3, "ice"),
    "float": ("1.5", 2, "warm"),
    "float[]": ([1, "2.5"], 3, ["warm"]),
    "date": ("2026-11-20T08:15:00Z", "2026-11-20", 1_763_626_500, "yesterday"),
    "dict": ('{"a": 1}', {"a": 1}, "ice"),
    "list": ("[1, 2]", [1, "a"], "ice"),
    "email": ("ada@example.org", "no address"),
    "link": ("https://example.org",),
    "none": (None, "ice"),
}
"""Values that are converted to each type, and one that cannot be."""

SELECTOR_PATH = "/data/vespa/700123/raw/27.nxs"
SELECTOR_EXAMPLES: tuple[Any, ...] = (
    "*",
    "filename:contains:/vespa/",
    "filename:starts_with:/data/vespa/",
    "filename:contains:/odin/",
    {"source": "filename", "operator": "contains", "operand_2": "/vespa/"},
    {"and": ["filename:contains:/vespa/", "filename:contains:.hdf"]},
    {"or": ["filename:contains:/odin/", "filename:contains:/vespa/"]},
    {"and": ["filename:contains:/vespa/", {"or": ["filename:contains:.hdf", "filename:contains:.nxs"]}]},
    "nexus:/entry/instrument/name:equals:VESPA",
    "nexus:/entry/^user_.*/name:contains:Meitner",
    "nexus:/entry/sample/mass:equals:1.250",
    "nexus:/entry/nowhere:equals:VESPA",
    {"source": "nexus", "path": "/entry/instrument/name", "operator": "equals", "operand_2": "VESPA"},
    {
        "and": [
            "filename:contains:/vespa/",
            {"or": ["nexus:/entry/title:starts_with:Ice", "filename:contains:.hdf"]},
        ]
    },
)

PATH_EXAMPLES: tuple[tuple[str, str], ...] = (
    ("/entry/title", "string"),
    ("/entry/sample/mass", "float"),
    ("/entry/sample/mass@units", "string"),
    ("/entry/user_*/name", "string[]"),
    ("/entry/*/name", "string[]"),
    ("/entry/instrument/.*_chopper/rotation_speed", "float[]"),
    ("/entry/instrument/^pulse.*/rotation_speed", "float"),
)
"""Paths in the tutorial's file, and the type that they are read with."""

REFERENCE_VALUES: Mapping[str, Value] = {
    "title": Value("Ice Ih"),
    "run": Value(27),
    "mass": Value(1.25, "g"),
    "users": Value(["Marie Curie", "Lise Meitner"]),
}
REFERENCE_EXAMPLES: tuple[Any, ...] = (
    "<title>",
    "<title>, run <run>",
    "<run>",
    "<mass>",
    "<mass> and more",
    "<users>",
    ["neutron", "<title>"],
    {"<title>": "<run>"},
    "1 < 2 and 3 > 2",
    "<gone>",
)

BUILT_IN: Mapping[str, str] = {
    "ingestor_run_id": "a new UUID each time the file is worked on",
    "data_file_path": "the absolute path of the NeXus file",
    "data_file_name": "its name, without folders",
    "now": "the time of the evaluation, in UTC",
    "ingestor_files_directory": "`ingestion.file_handling.ingestor_files_directory` of the configuration",
    "ingestor_metadata_schema_id": "the schema's `id`",
    "message_job_id": "the job id of the file writer",
    "message_service_id": "the file writer's service id",
    "message_metadata": "the message's metadata, a dict",
}
"""What each built-in variable is."""

_BEGINNING = """\
# Metadata schemas

A metadata schema (`*.imsc.yml`, also `.imsc.yaml` and `.imsc.json`) says what a dataset of one instrument consists of. All of
them are in the folder `ingestion.schemas_directory`. They are read for each file, so that a change needs no restart.

[VESPA in 20 minutes](../tutorials/vespa-in-20-minutes.md) is the first hour with them,
[Write a schema](../how-to/write-a-schema.md) has recipes. `scicat-dagster schema draft FILE` writes a first one, and
`scicat-dagster schema imsc` prints a JSON Schema by which an editor completes and checks them.

This page is made by `python docs/describe_schemas.py` from the package itself, with computed results; a test compares the two.

## A whole schema

```yaml
"""

WHOLE_SCHEMA = """\
id: 6a1f5d3e-vespa
name: VESPA
instrument: vespa
order: 100
selector: filename:contains:/vespa/
variables:
  title:
    source: NXS
    path: /entry/title
    value_type: string
  end_time:
    source: NXS
    path: /entry/end_time
    value_type: date
  folder:
    source: VALUE
    value: <data_file_path>
    operator: dirname-2
    value_type: string
schema:
  name: {field_type: high_level, machine_name: datasetName, value: <title>, type: string}
  owner: {field_type: high_level, machine_name: owner, value: Ada Lovelace, type: string}
  contact: {field_type: high_level, machine_name: contactEmail, value: ada@example.org, type: email}
  pi: {field_type: high_level, machine_name: principalInvestigator, value: Ada Lovelace, type: string}
  group: {field_type: high_level, machine_name: ownerGroup, value: vespa, type: string}
  location: {field_type: high_level, machine_name: creationLocation, value: "ESS:VESPA", type: string}
  folder: {field_type: high_level, machine_name: sourceFolder, value: <folder>, type: string}
  created: {field_type: high_level, machine_name: creationTime, value: <end_time>, type: date}
"""
"""The example at the beginning of the page; the tutorial's file can be registered with it."""

_SELECTORS = """
## Selectors

The schemas are asked by their `order`, the lowest first; the file belongs to the first whose selector matches. A file that no
selector matches fails, unless `ingestion.fallback_schema_file_path` names a schema for all others.

A selector is `*`, one condition, or a combination. A condition is `source:operator:argument`, or the same as a dictionary with
`source`, `operator` and `operand_2`. All keys of a combination have to hold.

A condition on the **content** of the file is `nexus:/path/in/the/file:operator:argument`, or a dictionary with `path` as well. It
holds where one of the values at the path does, with [wildcards](#paths-and-wildcards) as in a variable; numbers are compared as
numbers by `equals`. A path that is not in the file makes it false. The file is read for it only where the rest of the selector,
and the schemas before, leave the file open: put a cheap condition on the path beside it. A value that is there and cannot be read
fails the file, instead of leaving it to a schema that fits less.
"""

_MISTAKEN_SELECTORS = """
A mistake in a branch makes this branch false. Where the file seems to be meant all the same (the other branches of an `and`
hold, or a word is misspelt), the schema claims it and the file fails with the mistake, instead of being registered with a
schema that fits less.
"""

_WILDCARDS = """
### Paths and wildcards

A path is absolute. A component with `*` is a **regular expression that is searched in the names** at that place, not a file
name pattern: `user_*` is *user* and any number of `_`, anywhere in the name, and `^user_` without `*` would be a name. `*` alone is
every name. A type that ends in `[]`, and `list`, takes every value that is found, in the order of the file; every other type
needs exactly one. Links within the file are followed, links to other files are not.

What follows an `@` at the end is the name of an **attribute** of the group or dataset before it: `/@user` is one of the file itself,
`/entry/sample/mass@units` one of a dataset. It has no unit; a dataset that is really called so comes first. An attribute may take
64 KiB. In the tutorial's file:
"""

_REFERENCES = """
## References

`<name>` in a `url`, in a `value` and in the keys and items of lists and dicts becomes the value of a variable that is defined
above, or of a [built-in](#built-in-variables) one. A text that is one reference only becomes the value itself, with its type and
unit. In a `url` each value is quoted. With `title` = "Ice Ih", `run` = 27, `mass` = 1.25 g and `users` = a list of two names:
"""

_FAILURES = """
## What a failure does

Nothing is skipped silently, and one wrong item never takes the whole with it.

| what is wrong | what becomes of the file | where it is said |
|---|---|---|
| a variable fails: nothing at the path, SciCat does not have it, a conversion or an operator refuses | it is registered without what uses the variable, unless that is mandatory | table *warnings* of the run |
| an optional field or an entry fails | it is registered without it | the same |
| a mandatory field fails | the run fails permanently: the schema or the file has to be corrected | the run, with the reason for each field; `scicat-dagster failures` |
| SciCat or the storage does not answer | the run is tried again by itself | the run |
| a key is not known (`operatr`) | the key has no effect | a warning in each run, with the line and the nearest name; a mistake in `validate` |
| a variable or field cannot be read (an unknown operator, a missing key) | as if it had failed | the same |
| an operator of a package raises, returns what is not JSON, or cannot be imported | as if the variable had failed | the same, with the package |
| an entry of a base (`extends`) is wrong | as if it were the schema's own | the same, with the base's file and line |
| a base is missing, is not YAML, extends itself, or is outside the folder | as if `id` were missing | the runs of the files of each schema that extends it |
| a value that a selector compares cannot be read, although it is there | the run fails permanently | the run |
| `id`, `name`, `order` or `selector` is missing, or the file is not YAML | its files fail; those of other schemas are not touched | the runs of its files, as far as the selector can be read, otherwise a warning in each run |
| two schemas have one `id` | both work | a warning in each run |

`scicat-dagster validate CONFIG` finds all mistakes before a file does, and `--against FILE` reports what becomes of a file.
"""


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


def page() -> str:
    """The reference as Markdown."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield f"{_BEGINNING}{WHOLE_SCHEMA}```\n"
    yield "\n## Keys\n\n"
    yield _keys(Schema)
    yield (
        "\nHow parts are shared by `extends` is in "
        "[Share parts between schemas](../how-to/write-a-schema.md#share-parts-between-schemas).\n"
    )
    yield _SELECTORS + "\n"
    yield f"- Sources: {_codes(sorted(selection.SOURCES))}. Each of them is the full path of the data file.\n"
    yield f"- Operators: {_codes(selection.OPERATORS)}; hyphen and underscore are the same.\n"
    yield f"- Source `{selection.CONTENT}`: a value in the file. Operators: {_codes(selection.CONTENT_OPERATORS)}.\n\n"
    yield f"For the tutorial's file at `{SELECTOR_PATH}`:\n\n"
    yield _table(("selector", "matches"), _selector_rows())
    yield _MISTAKEN_SELECTORS
    yield "\n## Variables\n\nValues by name, evaluated in their order. `source` says where each comes from.\n"
    for title, model in (
        ("`source: NXS`: from the NeXus file", NexusVariable),
        ("`source: SC`: from SciCat", ScicatVariable),
        ("`source: VALUE`: made of others", ValueVariable),
    ):
        yield f"\n### {title}\n\n{_keys(model)}"
    yield _WILDCARDS + "\n"
    yield _table(("path", "`value_type`", "value", "unit"), _path_rows())
    yield from _operators()
    yield from _types()
    yield _REFERENCES + "\n"
    yield _table(("written", "becomes", "unit"), map(_reference_row, REFERENCE_EXAMPLES))
    yield from _built_in()
    yield from _fields()
    yield "\n## The sample\n\nThe keys of `sample_attachment`:\n\n"
    yield _keys(SampleAttachment)
    yield _FAILURES


def _operators() -> Iterator[str]:
    yield "\n## Operators\n\nOf a variable with `source: VALUE`. Hyphen and underscore are the same (`dirname-2`).\n\n"
    yield (
        "A facility's own Python package may offer more "
        "([how](../how-to/write-a-schema.md#an-operator-of-your-own)).\n\n"
    )
    yield _table(("operator", "needs", "value", "arguments", "result", "keeps the unit"), _operator_rows())


def _operator_rows() -> Iterator[Sequence[str]]:
    for name, operator in OPERATORS.items():
        needs = ", ".join(f"`{argument}`" for argument in operator.needs)
        unit = "yes" if operator.keeps_unit else "no"
        example = OPERATOR_EXAMPLES.get(name)
        if example is None:
            yield f"`{name}`", needs, "", "", "", unit
            continue
        given = {key: value for key, value in vars(example.arguments).items() if value is not None}
        arguments = ", ".join(f"`{key}: {_json(value)}`" for key, value in given.items())
        result = operator.apply(example.value, example.arguments)
        yield f"`{name}`", needs, _code(_json(example.value)), arguments, _code(_json(result)), unit


def _types() -> Iterator[str]:
    yield (
        "\n## Types\n\n`value_type` of a variable and `type` of a field convert the value. One that does not fit is a failure; "
        "nothing is\nreplaced by a default. NaN and infinities become null.\n\n"
        "A number of **single precision** (float32) that is read as `float` is the nearest one of double precision: 117.6 becomes\n"
        "117.5999984741211, as scicat-ingestor registers it, too. Read it as `string`, where it has the digits of its own precision, "
        "and\ngive the field `type: float`: then the catalogue has 117.6, and its unit. For many values these are `string[]` and "
        "`float[]`.\n`schema draft` writes it so.\n\n"
    )
    yield _table(("type", "value", "becomes"), _type_rows())


def _type_rows() -> Iterator[Sequence[str]]:
    for name in VALUE_TYPES:
        for value in TYPE_EXAMPLES.get(name, ()):
            try:
                becomes = _code(_json(convert(value, name)))  # type: ignore[arg-type]
            except (ValueError, TypeError) as error:
                becomes = f"fails: {error}"
            yield f"`{name}`", _code(_json(value)), becomes


def _built_in() -> Iterator[str]:
    yield "\n## Built-in variables\n\nDefined before a schema's own, which may take their place.\n\n"
    rows = (
        (f"`<{name}>`", BUILT_IN.get(name, ""), "yes" if name in MESSAGE_VARIABLES else "")
        for name in BUILT_IN_VARIABLES
    )
    yield _table(("name", "what it is", "only with an announcement"), rows)
    yield (
        f"\nWhere a schema has `entries`, `<{ENTRY_VARIABLE}>` is the name of the NXentry that a dataset is of, in paths as well: "
        "see\n[Several datasets of one file](../how-to/datasets-of-several-files.md#several-datasets-of-one-file).\n"
    )


def _fields() -> Iterator[str]:
    yield f"\n## Fields\n\nThe keys of each item of `schema`:\n\n{_keys(FieldAssignment)}"
    yield "\n### Mandatory and recommended\n\nWithout a mandatory field SciCat refuses a dataset, and the run fails.\n\n"
    importance = [(name, "mandatory") for name in MANDATORY] + [(name, "recommended") for name in RECOMMENDED]
    yield _table(
        ("field", "", "what it is"), ((f"`{name}`", kind, WHERE_FROM[name]) for name, kind in importance)
    )
    yield (
        f"\nRecommended, too, where the file has one, is the entry `job_id` of the scientific metadata. {_marked(IDENTIFIER)} `validate` "
        "warns\nwhere it is missing although the file has `entry_identifier_uuid` or `entry_identifier`, where the schema assigns it and "
        "the file\nhas no value, and where no pid is sent (`dataset.allow_dataset_pid: false`), because nothing else identifies a "
        "registered file then.\n"
    )
    yield (
        "\nWhere a schema gives no value, the section `dataset` of the configuration does, and `validate --against` says so: "
        "`default_owner_group`\nfor `ownerGroup`, `default_access_groups` for `accessGroups`, `default_instrument_id` for "
        "`instrumentId`, `default_proposal_id`\nfor `proposalId`.\n"
    )
    yield "\n### All fields of a dataset\n\n"
    yield f"{_codes(sorted(DATASET_FIELDS))}.\n\n"
    pairs = ", ".join(f"`{name}` (`{v3}`)" for name, v3 in V4_LIST_FIELDS.items())
    yield f"Lists of SciCat's v4 API may be assigned, too, and fill the v3 field: {pairs}.\n"


def _marked(text: str) -> str:
    """The text with the configuration's key as code."""
    return re.sub(r"(ingestion\.[a-z_.]+[a-z])", r"`\1`", text)


def _selector_rows() -> Iterator[Sequence[str]]:
    with open_nexus(VESPA) as nexus:
        for raw in SELECTOR_EXAMPLES:
            matches = read_selector(raw).match(SELECTOR_PATH, nexus) is Match.YES
            yield _code(raw if isinstance(raw, str) else _json(raw)), "yes" if matches else "no"


def _path_rows() -> Iterator[Sequence[str]]:
    with open_nexus(VESPA) as nexus:
        for path, value_type in PATH_EXAMPLES:
            takes_many = value_type.endswith("[]") or value_type == "list"
            found = nexus.read_all(path) if takes_many else nexus.read_one(path)
            yield _code(path), f"`{value_type}`", _code(_json(found.value)), found.unit


def _reference_row(template: Any) -> Sequence[str]:
    try:
        found = render(template, REFERENCE_VALUES)
    except UnresolvedError as error:
        return _code(_json(template)), f"fails: {error}", ""
    return _code(_json(template)), _code(_json(found.value)), found.unit


_FILES = "../how-to/datasets-of-several-files.md"

_HOW_TO: Mapping[tuple[type[BaseModel], str], str] = {
    (Schema, "files"): f"[How]({_FILES}).",
    (Schema, "entries"): f"[How]({_FILES}#several-datasets-of-one-file).",
    (Schema, "preview"): "[How](../how-to/previews.md).",
}
"""Where a key is explained at length."""


def _keys(model: type[BaseModel]) -> str:
    docs = attribute_docs(model)
    rows = (
        (
            f"`{field.alias or name}`",
            _default(field.get_default(call_default_factory=True)),
            " ".join((docs.get(name, ""), _HOW_TO.get((model, name), ""))).strip(),
        )
        for name, field in model.model_fields.items()
    )
    return _table(("key", "default", "meaning"), rows)


def _default(default: object) -> str:
    if default is PydanticUndefined:
        return "*needed*"
    if default in ("", None, {}, ()) or isinstance(default, BaseModel):
        return ""
    return f"`{json.dumps(default)}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    # A name in angle brackets would be a tag where it is not code.
    outside = text if "`" in text else text.replace("<", "\\<")
    return outside.replace("|", "\\|").replace("\n", " ")


def _code(text: str) -> str:
    return f"`{text}`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(_code(name) for name in names)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
