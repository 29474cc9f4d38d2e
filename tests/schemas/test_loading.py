"""A folder of schema files: which is read, which is chosen, and what a broken one does (and does not do)."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scicat_dagster.errors import PermanentError
from scicat_dagster.files.reading import Contents, Read, ReadAnswer
from scicat_dagster.schemas.bases import is_schema_file
from scicat_dagster.schemas.loading import (
    SchemaError,
    load_schemas,
    read_schema_file,
    shipped_schemas,
)

Document = dict[str, Any]
Write = Callable[..., Path]

FILE = "/data/odin/run.hdf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "schemas"
    folder.mkdir()
    return folder


@pytest.fixture
def write(folder: Path, schema_document: Document) -> Write:
    """Write a schema file that is valid but for the changes (``None`` takes a key away)."""

    def write_schema(file_name: str, **changes: Any) -> Path:
        stem = file_name.partition(".")[0]
        document = {**copy.deepcopy(schema_document), "id": stem, "name": stem, **changes}
        path = folder / file_name
        path.write_text(
            yaml.safe_dump({key: value for key, value in document.items() if value is not None}),
            encoding="utf-8",
        )
        return path

    return write_schema


def chosen(folder: Path, file_path: str = FILE) -> str:
    return load_schemas(folder).select(file_path).name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("odin.imsc.yml", True),
        ("odin.imsc.yaml", True),
        ("odin.imsc.json", True),
        ("odin.imsc.yml.old", True),
        ("a b #1.imsc.yml", True),
        # No dot is needed.
        ("coda_imsc.yml", True),
        ("coda-imsc.yaml", True),
        ("imsc.json", True),
        ("odin.yml", False),
        ("odin.imsc.txt", False),
        ("odin.imsc", False),
        (".odin.imsc.yml", False),
        (".imsc.yml", False),
        ("odin.IMSC.yml", False),
    ],
)
def test_a_schema_file_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_schema_file(Path("/schemas") / name) is expected


def test_only_schema_files_of_the_folder_itself_are_read(folder: Path, write: Write) -> None:
    for name in ("a.imsc.yml", "b.imsc.yaml", ".hidden.imsc.yml", "notes.yml"):
        write(name)
    (folder / "below").mkdir()
    (folder / "a.imsc.yml").rename(folder / "below" / "a.imsc.yml")
    assert [file.path.name for file in load_schemas(folder).files] == ["b.imsc.yaml"]


def test_json_is_read_however_it_is_indented(folder: Path, schema_document: Document) -> None:
    for number, indent in enumerate((None, 2, "\t")):
        document = {**schema_document, "id": str(number), "name": f"\N{GRINNING FACE} {number}"}
        (folder / f"{number}.imsc.json").write_text(json.dumps(document, indent=indent))
    collection = load_schemas(folder)
    assert [file.mistakes for file in collection.files] == [(), (), ()]
    assert [file.name for file in collection.files] == [f"\N{GRINNING FACE} {number}" for number in range(3)]


def test_a_file_with_a_byte_order_mark_is_read(folder: Path, write: Write) -> None:
    path = write("odin.imsc.yml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert chosen(folder) == "odin"


def test_a_key_that_is_written_twice_is_a_mistake_with_its_line(folder: Path, write: Write) -> None:
    path = write("odin.imsc.yml")
    again = "variables:\n  first: {source: VALUE, value: a, value_type: string}\n"
    path.write_text(f"{again}{path.read_text()}\nname: again\n")

    mistakes = {mistake.place: mistake for mistake in read_schema_file(path).located_mistakes()}

    assert mistakes["name"].line == len(path.read_text().splitlines())
    assert {place for place, mistake in mistakes.items() if "more than once" in mistake.what} >= {"name"}
    assert chosen(folder) == "again"


# --- Order and choice


def test_schemas_are_asked_by_order_and_then_by_name_whatever_its_case(folder: Path, write: Write) -> None:
    write("1.imsc.yml", order=20, name="alpha")
    write("2.imsc.yml", order=5, name="beta")
    write("3.imsc.yml", order=5, name="Alpha")
    write("4.imsc.yml", order=-1, name="zeta")
    write("5.imsc.yml", order=5, name="Gamma")
    names = [file.name for file in load_schemas(folder).files]
    assert names == ["zeta", "Alpha", "beta", "Gamma", "alpha"]


def test_the_first_schema_whose_selector_matches_wins(folder: Path, write: Write) -> None:
    write("all.imsc.yml", order=100)
    write("odin.imsc.yml", order=10, selector="filename:contains:/odin/")
    write("raw.imsc.yml", order=20, selector="filename:contains:/raw/")
    assert chosen(folder, "/data/odin/raw/run.hdf") == "odin"
    assert chosen(folder, "/data/dream/raw/run.hdf") == "raw"
    assert chosen(folder, "/data/dream/run.hdf") == "all"


def test_where_no_schema_matches_the_error_lists_those_that_were_tried(folder: Path, write: Write) -> None:
    write("odin.imsc.yml", selector="filename:contains:nothing")
    write("dream.imsc.yml", selector="filename:contains:no")
    with pytest.raises(PermanentError, match=r"tried: dream, odin") as caught:
        load_schemas(folder).select(FILE)
    assert FILE in caught.value.what
    assert str(folder) in caught.value.remedy


def test_an_empty_folder_has_no_schema_for_anything(folder: Path) -> None:
    with pytest.raises(PermanentError, match="tried: there is none"):
        load_schemas(folder).select(FILE)


@pytest.mark.parametrize("kind", ["missing", "a file", "a link to nothing"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "schemas"
    if kind == "a file":
        path.touch()
    elif kind == "a link to nothing":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PermanentError, match="cannot be listed") as caught:
        load_schemas(path)
    assert str(path) in caught.value.what
    assert "schemas_directory" in caught.value.remedy


# --- Fallback


def test_the_fallback_is_for_what_no_selector_matches(folder: Path, write: Write, tmp_path: Path) -> None:
    write("odin.imsc.yml", selector="filename:contains:odin")
    fallback = write("rest.imsc.yml").rename(tmp_path / "rest.imsc.yml")
    schemas = load_schemas(folder, str(fallback))
    assert schemas.select("/data/odin/run.hdf").name == "odin"
    assert schemas.select("/data/dream/run.hdf").name == "rest"


def test_a_fallback_shipped_with_the_package_is_known_by_its_name(folder: Path) -> None:
    schema = load_schemas(folder, "ess-fallback").select(FILE)
    assert schema.name == "ESS fallback"
    assert schema.reference_mistakes() == []


def test_every_shipped_schema_is_valid() -> None:
    assert "ess-fallback" in shipped_schemas()
    for path in shipped_schemas().values():
        file = read_schema_file(path)
        assert file.mistakes == ()
        assert file.schema is not None
        assert file.schema.reference_mistakes() == []


def test_a_fallback_that_does_not_exist_is_named_and_so_are_the_shipped_ones(folder: Path) -> None:
    with pytest.raises(PermanentError, match=r"nowhere\.imsc\.yml does not exist") as caught:
        load_schemas(folder, "/nowhere.imsc.yml")
    assert "ess-fallback" in caught.value.remedy


def test_a_broken_fallback_fails_only_the_files_that_need_it(
    folder: Path, write: Write, tmp_path: Path
) -> None:
    write("odin.imsc.yml", selector="filename:contains:odin")
    broken = tmp_path / "rest.imsc.yml"
    broken.write_text("name: rest")
    schemas = load_schemas(folder, str(broken))
    assert schemas.select("/data/odin/run.hdf").name == "odin"
    with pytest.raises(SchemaError, match=r"rest\.imsc\.yml"):
        schemas.select("/data/dream/run.hdf")


# --- Broken files


def test_a_broken_schema_keeps_claiming_its_files_and_they_fail_with_its_mistakes(
    folder: Path, write: Write
) -> None:
    broken = write("odin.imsc.yml", selector="filename:contains:odin", id=None)
    write("all.imsc.yml", order=1000)
    with pytest.raises(SchemaError, match="id: is missing") as caught:
        load_schemas(folder).select(FILE)
    assert caught.value.path == broken
    assert str(broken) in str(caught.value)
    assert "try the file again" in caught.value.remedy
    assert load_schemas(folder).notices() == ()


def test_a_broken_schema_does_not_stop_the_files_of_others(folder: Path, write: Write) -> None:
    write("odin.imsc.yml", selector="filename:contains:odin", schema=[])
    write("dream.imsc.yml", selector="filename:contains:dream")
    assert chosen(folder, "/data/dream/run.hdf") == "dream"


def test_a_better_schema_before_a_broken_one_still_wins(folder: Path, write: Write) -> None:
    write("odin.imsc.yml", order=20, selector="filename:contains:odin", schema=[])
    write("first.imsc.yml", order=10)
    assert chosen(folder) == "first"


@pytest.mark.parametrize("order", [10, "10", 10.0, 1.5])
def test_a_broken_schema_claims_its_files_however_its_order_is_written(
    folder: Path, write: Write, order: object
) -> None:
    # A whole schema may say `order: "10"`, so a broken one may, too.
    write("whole.imsc.yml", order=order)
    assert chosen(folder) == "whole"
    write("whole.imsc.yml", order=order, schema=[])
    write("all.imsc.yml", order=1000)
    with pytest.raises(SchemaError):
        load_schemas(folder).select(FILE)


def test_a_schema_with_a_broken_branch_keeps_its_files_and_every_run_names_it(
    folder: Path, write: Write
) -> None:
    write("odin.imsc.yml", selector={"or": ["file_name:contains:odin", "filename:contains:/raw/"]})
    write("all.imsc.yml", order=1000)
    schemas = load_schemas(folder)
    assert schemas.select("/data/dream/raw/run.hdf").name == "odin"
    assert schemas.select("/data/dream/run.hdf").name == "all"
    assert [notice.subject for notice in schemas.notices()] == ["schema file odin.imsc.yml"]
    assert "unknown source 'file_name'; did you mean filename?" in schemas.notices()[0].reason


@pytest.mark.parametrize(
    "selector",
    [
        "file_name:contains:odin",
        {"or": ["file_name:contains:odin", "filename:contains:raw"]},
        {"and": ["filename:contains:odin", "filename:resembles:run"]},
    ],
)
def test_a_file_that_a_broken_branch_seems_to_mean_fails_and_is_not_for_a_less_fitting_schema(
    folder: Path, write: Write, selector: object
) -> None:
    broken = write("odin.imsc.yml", selector=selector)
    write("all.imsc.yml", order=1000)
    schemas = load_schemas(folder)
    with pytest.raises(SchemaError, match="selector: unknown") as caught:
        schemas.select(FILE)
    assert caught.value.path == broken
    assert schemas.select("/data/dream/run.hdf").name == "all"


def test_schemas_are_asked_by_a_fraction_of_their_order(folder: Path, write: Write) -> None:
    write("a.imsc.yml", order=1.5)
    write("b.imsc.yml", order=1.25)
    write("c.imsc.yml", order=2)
    assert [file.name for file in load_schemas(folder).files] == ["b", "a", "c"]


def test_a_schema_with_broken_items_is_used_without_them(folder: Path, write: Write) -> None:
    path = write("odin.imsc.yml", variables={"a": {"source": "MOON"}}, jobs={"embargo": {"type": "x"}})
    write("all.imsc.yml", order=1000)
    schemas = load_schemas(folder)
    assert schemas.select(FILE).name == "odin"
    assert schemas.notices() == ()
    assert read_schema_file(path).mistakes == (
        "variables.a: unknown source 'MOON'; use NXS, SC or VALUE.",
        "jobs.embargo.job_params: is missing.",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"selector": "filename:like:odin"},
        {"selector": None},
        {"order": None},
        {"order": "first"},
        {"order": [1]},
        {"selector": {"and": [{"or": ["nonsense"]}]}},
    ],
)
def test_a_schema_that_cannot_say_its_files_is_named_in_a_notice_on_every_run(
    folder: Path, write: Write, changes: Document
) -> None:
    write("odin.imsc.yml", **changes)
    write("all.imsc.yml", order=1000)
    schemas = load_schemas(folder)
    assert schemas.select(FILE).name == "all"
    assert [notice.subject for notice in schemas.notices()] == ["schema file odin.imsc.yml"]
    assert next(iter(changes)) in schemas.notices()[0].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must hold keys"),
        (b"- a", "must hold keys"),
        (b"text", "must hold keys"),
        (b"id: [", "not YAML"),
        (b"id: \xff", "not UTF-8"),
        (b"a: b: c", "line 1, column 5"),
        (b"\x00", "not YAML"),
        (b"[" * 1_000, "."),
        (b"{" * 1_000, "."),
        (b"selector: " + b"{and: [" * 30 + b"'*'" + b"]}" * 30, "is missing"),
        *((b"selector: " + b"{and: [" * depth + b"'*'" + b"]}" * depth, ".") for depth in range(60, 260, 20)),
        # A structure that holds itself.
        (b"selector: &s {and: [*s]}\norder: 1", "."),
        (b"schema: &s {a: *s}", "."),
        # PyYAML does not call these a YAMLError.
        (b"id: 2024-13-45", "."),
        (b"id: !!int many", "."),
        (b"id: !!bool perhaps", "."),
        (b"id: !!timestamp yesterday", "."),
        (b"id: !!float x", "."),
        (b"id: " + b"1" * 5000, "."),
        (b"id: !!python/object/apply:os.system ['true']", "not YAML"),
        (b"{[a]: b}", "."),
        (b"1: 2\n? [a]\n: b", "."),
        (b"{1: 2, null: 3, 2024-01-01: 4}", "is missing"),
    ],
)  # fmt: skip
def test_whatever_a_file_holds_its_mistakes_are_told_and_the_others_still_work(
    folder: Path, write: Write, content: bytes, reason: str
) -> None:
    (folder / "broken.imsc.yml").write_bytes(content)
    write("all.imsc.yml", order=1000, selector="filename:contains:run")
    broken = read_schema_file(folder / "broken.imsc.yml")
    assert broken.schema is None
    assert reason in " ".join(broken.mistakes)
    schemas = load_schemas(folder)
    assert len(schemas.files) == 2
    if not broken.claims_files:
        assert schemas.select(FILE).name == "all"
        assert schemas.notices()[0].subject == "schema file broken.imsc.yml"


def test_a_value_that_holds_itself_is_a_mistake_of_that_schema_alone(folder: Path, write: Write) -> None:
    path = write("odin.imsc.yml", selector="filename:contains:odin")
    path.write_text(
        path.read_text().replace(
            "variables: {}", "variables: {a: {source: VALUE, value_type: list, value: &v [*v]}}"
        )
    )
    write("all.imsc.yml", order=1000)
    file = read_schema_file(path)
    # Found when it is read or when its references are: but as a mistake in words.
    assert file.mistakes or (file.schema and file.schema.reference_mistakes())
    assert chosen(folder, "/data/dream/run.hdf") == "all"


def test_a_folder_and_a_dead_link_with_the_name_of_a_schema_stop_nothing(folder: Path, write: Write) -> None:
    (folder / "folder.imsc.yml").mkdir()
    (folder / "link.imsc.yml").symlink_to("nowhere")
    write("all.imsc.yml")
    schemas = load_schemas(folder)
    assert schemas.select(FILE).name == "all"
    assert [notice.subject for notice in schemas.notices()] == [
        "schema file folder.imsc.yml",
        "schema file link.imsc.yml",
    ]
    assert all("cannot be read" in notice.reason for notice in schemas.notices())


def test_all_mistakes_of_a_schema_are_told_by_their_place(folder: Path, write: Write) -> None:
    path = write(
        "odin.imsc.yml",
        id=None,
        variables={
            "a": {"source": "NXS", "value_type": "string"},
            "b": {"value": "x", "value_type": "string"},
            "c": {"source": "VALUE", "value": "x", "value_type": "string", "operator": "reverse"},
            "now": {"source": "VALUE", "value": "x", "value_type": "text"},
        },
        schema={"x": {"field_type": "high_level", "machine_name": "nope", "value": "", "type": "string"}},
    )
    mistakes = read_schema_file(path).mistakes
    for expected in (
        "id: is missing.",
        "variables.a.path: is missing.",
        "variables.b: needs `source: NXS`, `SC` or `VALUE`.",
        "variables.c.operator: unknown operator 'reverse'",
        "variables.now.value_type: ",
        "schema.x: 'nope' is not a field of a SciCat dataset.",
    ):
        assert any(mistake.startswith(expected) for mistake in mistakes), expected


def test_two_schemas_with_one_id_are_named_and_both_still_work(folder: Path, write: Write) -> None:
    write("a.imsc.yml", id="same", selector="filename:contains:odin")
    write("b.imsc.yml", id="same", order=20)
    write("c.imsc.yml", id="other", order=30)
    schemas = load_schemas(folder)
    assert [notice.subject for notice in schemas.duplicate_ids()] == ["schema id same"]
    assert "a.imsc.yml and b.imsc.yml" in schemas.duplicate_ids()[0].reason
    assert schemas.notices() == schemas.duplicate_ids()
    assert schemas.select("/data/odin/run.hdf").name == "a"
    assert schemas.select("/data/dream/run.hdf").name == "b"


def test_an_error_survives_the_way_to_another_process(folder: Path, write: Write) -> None:
    write("odin.imsc.yml", schema=[])
    with pytest.raises(SchemaError) as caught:
        load_schemas(folder).select(FILE)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, SchemaError)
    assert (str(again), again.mistakes) == (str(caught.value), caught.value.mistakes)


def test_the_schema_of_a_real_facility_is_read_unchanged(data_folder: Path) -> None:
    file = read_schema_file(data_folder / "small-coda.imsc.yml")
    assert file.mistakes == ()
    assert file.schema is not None
    assert file.schema.reference_mistakes() == []
    assert (file.order, file.name) == (110, "Test Coda Metadata Schema")
    assert file.selects("/data/small-coda.hdf")
    assert not file.selects("/data/large-coda.hdf")


def test_a_schema_file_that_goes_away_is_told(folder: Path, write: Write) -> None:
    path = write("odin.imsc.yml")
    path.unlink()
    assert "No such file" in read_schema_file(path).mistakes[0]


CONTENT_SELECTOR = {"and": ["filename:contains:odin", "nexus:/entry/instrument/name:equals:ODIN"]}


def reader(answers: dict[str, ReadAnswer], asked: list[str]) -> Callable[[tuple[Read, ...]], Contents]:
    def read(reads: tuple[Read, ...]) -> Contents:
        asked.extend(read.path for read in reads)
        absent = ReadAnswer(error="lookup", reason="absent")
        return Contents({read: answers.get(read.path, absent) for read in reads})

    return read


def test_the_content_is_read_once_and_only_for_schemas_whose_path_matches(folder: Path, write: Write) -> None:
    write("a.imsc.yml", order=1, selector={"and": ["filename:contains:dream", "nexus:/d:equals:1"]})
    write("b.imsc.yml", order=2, selector={"and": ["filename:contains:odin", "nexus:/b:equals:1"]})
    write("c.imsc.yml", order=3, selector="nexus:/c:equals:1")
    write("d.imsc.yml", order=4, selector="filename:contains:odin")
    write("e.imsc.yml", order=5, selector="nexus:/e:equals:1")
    asked: list[str] = []
    schemas = load_schemas(folder)

    chosen = schemas.select(FILE, reader({"/c": ReadAnswer(value=["1"])}, asked))
    assert (chosen.name, asked) == ("c", ["/b", "/c"])
    asked.clear()
    assert schemas.select(FILE, reader({}, asked)).name == "d"
    assert asked == ["/b", "/c"]


def test_the_content_is_not_read_where_the_path_decides(folder: Path, write: Write) -> None:
    write("a.imsc.yml", order=1, selector="filename:contains:odin")
    write("b.imsc.yml", order=2, selector="nexus:/b:equals:1")
    schemas = load_schemas(folder)

    assert schemas.select(FILE).name == "a"
    with pytest.raises(PermanentError, match="depends on its content \\(/b\\)"):
        schemas.select("/data/dream/run.hdf")


def test_a_broken_schema_keeps_the_files_that_its_content_selects(folder: Path, write: Write) -> None:
    write("odin.imsc.yml", selector=CONTENT_SELECTOR, id=None)
    write("rest.imsc.yml", order=99, selector="*")
    schemas = load_schemas(folder)
    odin = reader({"/entry/instrument/name": ReadAnswer(value=["ODIN"])}, [])

    with pytest.raises(SchemaError, match=r"odin\.imsc\.yml.*id"):
        schemas.select(FILE, odin)
    assert schemas.select(FILE, reader({}, [])).name == "rest"


def test_a_value_that_cannot_be_compared_is_an_error_that_names_schema_and_file(
    folder: Path, write: Write
) -> None:
    write("odin.imsc.yml", selector=CONTENT_SELECTOR)
    write("rest.imsc.yml", order=99, selector="*")
    damaged = ReadAnswer(error="value", reason="its chunks are damaged.")

    with pytest.raises(PermanentError) as caught:
        load_schemas(folder).select(FILE, reader({"/entry/instrument/name": damaged}, []))

    assert "odin.imsc.yml" in caught.value.what
    assert FILE in caught.value.what
    assert "its chunks are damaged." in caught.value.what
