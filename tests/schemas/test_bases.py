"""What schemas share: how a base is put under a schema, what is refused, and when it is read again."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scicat_dagster.cli import main
from scicat_dagster.schemas.bases import with_bases
from scicat_dagster.schemas.loading import SchemaError, SchemaFile, load_schemas, read_schema_file

Document = dict[str, Any]
Write = Callable[[str, Any], Path]

FILE = "/data/odin/run.hdf"


def field(name: str, value: Any) -> Document:
    return {"field_type": "high_level", "machine_name": name, "value": value, "type": "string"}


def value(value: Any) -> Document:
    return {"source": "VALUE", "value": value, "value_type": "string"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "schemas"
    made.mkdir()
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    """Write a file of the folder; one of long ago, so that reading it again is not forced by its age."""

    def write_file(name: str, content: Any) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        then = time.time() - 3600
        os.utime(path, (then, then))
        return path

    return write_file


@pytest.fixture
def schema(write: Write, schema_document: Document) -> Callable[..., SchemaFile]:
    """The schema ``odin.imsc.yml`` with these keys; ``None`` takes one away."""

    def read(**changes: Any) -> SchemaFile:
        document = {**copy.deepcopy(schema_document), **changes}
        return read_schema_file(write("odin.imsc.yml", {k: v for k, v in document.items() if v is not None}))

    return read


def the(file: SchemaFile) -> Any:
    assert file.schema is not None, file.mistakes
    return file.schema


def test_the_sections_of_a_base_are_the_schemas(
    schema: Callable[..., SchemaFile], write: Write, schema_document: Document
) -> None:
    write(
        "common.part.yml",
        {
            "instrument": "odin",
            "variables": {"title": value("a title")},
            "schema": schema_document["schema"],
            "jobs": {"archive": {"type": "archive", "job_params": {}}},
            "preview": {"scale": "log", "percentiles": [1, 99]},
            "sample_attachment": {"query_sample_name": True},
        },
    )

    found = schema(
        extends="common.part.yml",
        instrument=None,
        schema={"name": field("datasetName", "<title>")},
        preview={"scale": "linear"},
    )

    assert found.located_mistakes() == []
    assert the(found).instrument == "odin"
    assert list(the(found).variables) == ["title"]
    assert set(the(found).items) == {*schema_document["schema"], "name"}
    assert list(the(found).jobs) == ["archive"]
    assert (the(found).preview.scale, the(found).preview.percentiles) == ("linear", (1, 99))
    assert the(found).sample_attachment.query_sample_name


def test_the_schema_wins_over_its_bases_and_a_later_base_over_an_earlier_one(
    schema: Callable[..., SchemaFile], write: Write
) -> None:
    write("a.part.yml", {"variables": {"x": value("a"), "y": value("a"), "z": value("a")}})
    write("b.part.yml", {"variables": {"y": value("b"), "z": value("b")}})

    found = the(schema(extends=["a.part.yml", "b.part.yml"], variables={"z": value("own")}))

    assert {name: variable.value for name, variable in found.variables.items()} == {
        "x": "a", "y": "b", "z": "own",
    }  # fmt: skip


def test_an_entry_without_a_value_takes_the_inherited_one_away(
    schema: Callable[..., SchemaFile], write: Write
) -> None:
    write("a.part.yml", {"variables": {"x": value("a"), "y": value("a")}})

    assert list(the(schema(extends="a.part.yml", variables={"x": None})).variables) == ["y"]
    # Without a base it is what it always was: a variable that cannot be read.
    assert any("variables.x" in mistake for mistake in schema(variables={"x": None}).mistakes)


def test_variables_are_put_where_those_that_use_them_find_them(
    schema: Callable[..., SchemaFile], write: Write
) -> None:
    write("a.part.yml", {"variables": {"folder": value("/data"), "place": value("<folder>/raw")}})
    own = {"proposal": value("1"), "folder": value("/data/<proposal>"), "file": value("<place>/1.nxs")}

    found = schema(extends="a.part.yml", variables=own)

    assert list(the(found).variables) == ["proposal", "folder", "place", "file"]
    assert found.located_mistakes() == []


def test_a_base_may_have_bases_which_are_beside_it(schema: Callable[..., SchemaFile], write: Write) -> None:
    write("parts/all.part.yml", {"variables": {"x": value("all")}})
    write("parts/neutron.part.yml", {"extends": "all.part.yml", "variables": {"y": value("neutron")}})
    write("parts/odin.part.yml", {"extends": ["neutron.part.yml", "all.part.yml"]})

    assert list(the(schema(extends="parts/odin.part.yml")).variables) == ["x", "y"]


def test_a_base_is_not_a_schema(schema: Callable[..., SchemaFile], write: Write, folder: Path) -> None:
    write("common.part.yml", {"variables": {}})
    schema(extends="common.part.yml")

    assert [file.path.name for file in load_schemas(folder).files] == ["odin.imsc.yml"]
    assert load_schemas(folder).notices() == ()


@pytest.mark.parametrize(
    ("extends", "what", "remedy"),
    [
        (
            "comon.part.yml",
            "comon.part.yml does not exist; did you mean common.part.yml?",
            "Correct the name",
        ),
        ("nowhere", "nowhere does not exist.", "Correct the name, or write the file."),
        ("../common.part.yml", "leads out of the folder of the schemas", "Put the file below"),
        ("/etc/hostname", "leads out of the folder of the schemas", "Put the file below"),
        ("link.part.yml", "link.part.yml leads out of the folder of the schemas", "Put the file below"),
        ("dream.imsc.yml", "dream.imsc.yml is a schema by its name", "without imsc in its name"),
        ("disguise.part.yml", "disguise.part.yml is a schema by its name", "without imsc in its name"),
        (".", "is not a file", "Name a file with sections"),
        ("pipe.part.yml", "pipe.part.yml is not a file", "Name a file with sections"),
        ("list.part.yml", "list.part.yml holds no sections", "Give list.part.yml sections"),
        ("no.part.yml", "no.part.yml: it is not YAML", "Correct no.part.yml"),
        ("a\0b", "is not the name of a file", "Correct the name"),
        ("x" * 300, "is not the name of a file", "Correct the name"),
        ("me.part.yml", "me.part.yml extends itself: me.part.yml → me.part.yml.", "out of the ring"),
        (
            "ring.part.yml",
            "extends itself: ring.part.yml → round.part.yml → ring.part.yml.",
            "out of the ring",
        ),
        (5, "must be the name of a file, or a list of names", "common.part.yml"),
        ({"a": "b"}, "must be the name of a file, or a list of names", "common.part.yml"),
        (["common.part.yml", 5], "must be the name of a file, or a list of names", "common.part.yml"),
    ],
)
def test_what_cannot_be_extended_is_named_with_file_line_and_remedy(
    schema: Callable[..., SchemaFile], write: Write, folder: Path, extends: Any, what: str, remedy: str
) -> None:
    write("common.part.yml", {})
    write("dream.imsc.yml", {})
    write("list.part.yml", [1, 2])
    write("no.part.yml", "a: [")
    write("me.part.yml", {"extends": "me.part.yml"})
    write("ring.part.yml", {"extends": "round.part.yml"})
    write("round.part.yml", {"extends": ["common.part.yml", "ring.part.yml"]})
    os.mkfifo(folder / "pipe.part.yml")
    outside = folder.parent / "outside.yml"
    outside.write_text("variables: {}")
    (folder / "link.part.yml").symlink_to(outside)
    (folder / "disguise.part.yml").symlink_to(folder / "dream.imsc.yml")
    (folder.parent / "common.part.yml").write_text("variables: {}")

    found = schema(extends=extends)

    (mistake,) = found.located_mistakes()
    assert what in mistake.what
    assert remedy in mistake.remedy
    assert mistake.place == "extends"
    assert mistake.line
    assert found.schema is None


def test_only_the_schema_that_extends_it_is_broken_and_keeps_its_files(
    schema: Callable[..., SchemaFile], write: Write, folder: Path, schema_document: Document
) -> None:
    schema(extends="gone.part.yml", selector="filename:contains:odin")
    write("rest.imsc.yml", {**schema_document, "id": "rest", "name": "rest", "order": 99})
    schemas = load_schemas(folder)

    with pytest.raises(SchemaError, match=r"extends: gone\.part\.yml does not exist"):
        schemas.select(FILE)
    assert schemas.select("/data/dream/run.hdf").name == "rest"


@pytest.mark.parametrize("key", ["id", "name", "order", "selector"])
def test_what_is_of_one_schema_cannot_be_shared(
    schema: Callable[..., SchemaFile], write: Write, folder: Path, key: str
) -> None:
    write("common.part.yml", {"variables": {}, key: "x"})

    found = schema(extends="common.part.yml")

    (mistake,) = found.located_mistakes()
    assert (mistake.place, mistake.file, mistake.line) == (key, folder / "common.part.yml", 2)
    assert found.schema is None


@pytest.mark.parametrize("section", ["variables", "schema", "jobs"])
def test_a_section_that_is_none_breaks_the_schemas_that_extend_it(
    schema: Callable[..., SchemaFile], write: Write, section: str
) -> None:
    write("common.part.yml", {section: ["x"]})

    found = schema(extends="common.part.yml")

    assert found.mistakes == (f"common.part.yml: {section}: must be a dictionary of names.",)
    assert found.schema is None


def test_a_mistake_in_an_entry_of_a_base_costs_this_entry_and_names_the_bases_line(
    schema: Callable[..., SchemaFile], write: Write, folder: Path
) -> None:
    base = write(
        "common.part.yml",
        "variables:\n"
        "  good: {source: VALUE, value: a, value_type: string}\n"
        "  bad: {source: VALUE, value: a, operator: to-upperr, value_type: string}\n"
        "  odd: {source: VALUE, value: <gone>, value_type: string}\n"
        "variabels: {}\n",
    )

    found = schema(extends="common.part.yml")

    assert {(m.item, m.file, m.line) for m in found.located_mistakes()} == {
        ("variables.bad", base, 3), ("variables.odd", base, 4), ("variabels", base, 5),
    }  # fmt: skip
    (notice,) = load_schemas(folder).notices_about(the(found))
    assert notice.subject == "variabels"
    assert "(common.part.yml, line 5)" in notice.reason


def test_an_entry_that_replaces_a_bases_is_the_schemas_own(
    schema: Callable[..., SchemaFile], write: Write
) -> None:
    write("common.part.yml", {"variables": {"x": {"source": "VALUE"}}})

    found = schema(extends="common.part.yml", variables={"x": {"source": "VALU"}})

    (mistake,) = found.located_mistakes()
    assert mistake.file is None


def test_a_changed_base_is_read_again(schema: Callable[..., SchemaFile], write: Write, folder: Path) -> None:
    write("inner.part.yml", {"variables": {"x": value("old")}})
    write("outer.part.yml", {"extends": "inner.part.yml"})
    path = schema(extends="outer.part.yml").path
    assert read_schema_file(path) is read_schema_file(path)

    write("inner.part.yml", {"variables": {"x": value("a new one")}})
    assert the(read_schema_file(path)).variables["x"].value == "a new one"
    (folder / "inner.part.yml").unlink()
    assert read_schema_file(path).schema is None
    write("inner.part.yml", {"variables": {"x": value("back")}})
    assert the(read_schema_file(path)).variables["x"].value == "back"


def test_a_link_to_a_base_that_leads_elsewhere_is_read_again(
    schema: Callable[..., SchemaFile], write: Write, folder: Path
) -> None:
    # As in a mounted folder of Kubernetes, where a whole version is replaced by a link.
    for name in ("old", "new"):
        write(f"{name}/common.part.yml", {"variables": {"x": value(name)}})
    link = folder / "common.part.yml"
    link.symlink_to("old/common.part.yml")
    path = schema(extends="common.part.yml").path
    assert the(read_schema_file(path)).variables["x"].value == "old"

    link.unlink()
    link.symlink_to("new/common.part.yml")
    assert the(read_schema_file(path)).variables["x"].value == "new"


def test_a_few_lines_cannot_mean_billions(schema: Callable[..., SchemaFile], write: Write) -> None:
    for number in range(60):
        write(f"{number}.part.yml", {"extends": [f"{number + 1}.part.yml"] * 2})
    write("60.part.yml", {})

    mistakes = schema(extends="0.part.yml").mistakes

    assert any("extends more than 100 files" in mistake for mistake in mistakes)
    assert len(mistakes) < 100


def test_validate_names_a_bases_mistake_once(
    schema: Callable[..., SchemaFile], write: Write, folder: Path, schema_document: Document
) -> None:
    base = write("common.part.yml", "variables:\n  bad: {source: VALU, value: a}\n")
    schema(extends="common.part.yml")
    write("dream.imsc.yml", {**schema_document, "id": "d", "name": "d", "extends": "common.part.yml"})
    config = folder.parent / "config.yml"
    config.write_text("scicat: {host: 'https://h', token: x}\ningestion: {schemas_directory: schemas}\n")

    result = CliRunner().invoke(main, ["validate", str(config)])

    assert result.exit_code == 1
    assert (
        result.output.count(f"{base}\nmistake    schema         line 2: variables.bad: unknown source") == 1
    )


names = st.sampled_from(["a.part.yml", "b.part.yml", "c.part.yml", "../d", "odin.imsc.yml", "", 7, None])
contents = st.fixed_dictionaries(
    {},
    optional={
        "extends": names | st.lists(names, max_size=3),
        "variables": st.none()
        | st.integers()
        | st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers()),
        "schema": st.none() | st.lists(st.none()),
        "selector": st.text(max_size=3),
        "preview": st.booleans() | st.dictionaries(st.sampled_from(["scale", "x"]), st.integers()),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(contents, min_size=3, max_size=3), contents)
def test_whatever_is_extended_the_result_is_a_document_or_mistakes(
    folder: Path, bases: list[Document], own: Document
) -> None:
    for name, content in zip("abc", bases, strict=True):
        (folder / f"{name}.part.yml").write_text(yaml.safe_dump(content))

    found = with_bases(folder / "odin.imsc.yml", own)

    assert isinstance(found.content, dict)
    assert len(found.mistakes) < 1000
    if not found.mistakes:
        for key, written in own.items():
            if written is not None and not isinstance(written, dict):
                assert found.content[key] == written
