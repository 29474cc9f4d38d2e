"""Selectors: which files a schema is for, in each way of writing it, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.files.values import NexusValue, Scalar
from scicat_dagster.schemas.selection import Match, read_selector

ODIN = "/data/odin/443503/raw/run:1.hdf"
DREAM = "/data/dream/1/raw/run.hdf"

paths = st.text(min_size=1, max_size=12).map(lambda text: "/" + text)


def selects(selector: object, path: str = ODIN) -> bool:
    return read_selector(selector).match(path) is Match.YES


def mistakes(selector: object) -> str:
    return " ".join(read_selector(selector).mistakes())


@given(paths)
def test_a_star_selects_everything(path: str) -> None:
    assert selects("*", path)


@pytest.mark.parametrize("source", ["filename", "datafile", "nexusfile"])
def test_every_source_is_the_full_path(source: str) -> None:
    assert selects(f"{source}:starts_with:/data/odin")
    assert selects({"source": source, "operator": "starts_with", "operand_2": "/data/odin"})
    assert not selects(f"{source}:starts_with:/data/dream")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("filename:contains:odin", True),
        ("filename:contains:Odin", False),
        ("filename:contains:dream", False),
        ("filename:contains:run:1", True),
        ("filename:contains::", True),
        ("filename:contains:run:2", False),
        ("filename:starts_with:/data/odin/443503/raw/run:1", True),
        ("filename:starts-with:/data", True),
        (" filename : contains :odin", True),
        # The argument is taken as it is: a folder may begin with a space.
        ("filename:contains: odin", False),
        ({"operand_1": "datafile", "operator": "contains", "operand_2": "run:1"}, True),
        ({"source": "datafile", "operator": "contains", "operand_2": 443503}, True),
        ({"source": "datafile", "operator": "contains", "operand_2": 443504}, False),
        ({"and": ["filename:contains:odin", "filename:contains:raw"]}, True),
        ({"and": ["filename:contains:odin", "filename:contains:dream"]}, False),
        ({"or": ["filename:contains:dream", "filename:contains:odin"]}, True),
        ({"or": ["filename:contains:dream", "filename:contains:loki"]}, False),
        ({"and": ["*"]}, True),
        ({"or": [{"and": ["*", {"or": [{"and": ["filename:contains:odin"]}]}]}]}, True),
        ({"or": [{"and": ["*", {"or": [{"and": ["filename:contains:dream"]}]}]}]}, False),
        ({"and": ["*"], "or": ["filename:contains:odin"]}, True),
        ({"and": ["*"], "or": ["filename:contains:dream"]}, False),
        ({"and": ["filename:contains:dream"], "or": ["*"]}, False),
        ({"and": ["filename:starts_with:/data", "filename:starts_with:/data/odin"]}, True),
        ({"or": ["filename:starts_with:/a", "filename:starts_with:/data"]}, True),
    ],
)
def test_a_selector_selects_what_it_says(selector: object, expected: bool) -> None:
    assert selects(selector) is expected
    assert mistakes(selector) == ""


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("instrument:contains:odin", "unknown source 'instrument'"),
        ("filename:ends_with:hdf", "unknown operator 'ends_with'"),
        ("filename:contains", "source:operator:argument"),
        ("odin", "source:operator:argument"),
        ("", "source:operator:argument"),
        (None, "selects nothing"),
        (5, "selects nothing"),
        ([], "selects nothing"),
        (["filename:contains:odin"], "selects nothing"),
        ({}, "selects nothing"),
        ({"source": "moon", "operator": "contains", "operand_2": "x"}, "unknown source 'moon'"),
        ({"source": "filename", "operator": "is", "operand_2": "x"}, "unknown operator 'is'"),
        ({"operator": "contains", "operand_2": "x"}, "unknown source ''"),
        ({"source": "filename", "operand_2": "x"}, "unknown operator ''"),
        ({"source": "filename", "operator": "contains", "operand": "x"}, "lacks operand_2"),
        (
            {"source": "filename", "operator": "contains", "operand_2": "x", "note": "y"},
            "'note' is not known and has no effect",
        ),
        # Without it the schema would claim every file of the facility.
        ({"source": "filename", "operator": "contains"}, "operand_2"),
        ({"source": "filename", "operator": "contains", "operand_2": None}, "operand_2"),
        ({"not": ["*"]}, "'not' is not known"),
        ({True: ["*"]}, "'True' is not known"),
        ({"ad": ["*"], "or": ["*"]}, "'ad' is not known and has no effect; did you mean and?"),
        ("file_name:contains:odin", "unknown source 'file_name'; did you mean filename?"),
        ("FILENAME:contains:odin", "did you mean filename?"),
        ("filename:contain:odin", "unknown operator 'contain'; did you mean contains?"),
        ({"or": ["file_name:contains:odin", "*"]}, "did you mean filename?"),
        ({"and": []}, "needs a list"),
        ({"or": "filename:contains:odin"}, "needs a list"),
        ({"and": ["*", {"or": ["filename:like:x"]}]}, "unknown operator 'like'"),
        ({"and": ["*"], "or": ["moon:contains:x"]}, "unknown source 'moon'"),
        ("filename:starts_with:odin", "can never match"),
        ({"source": "filename", "operator": "starts_with", "operand_2": "odin"}, "can never match"),
        ({"and": ["filename:starts_with:/data/odin", "filename:starts_with:/data/dream"]}, "can never match"),
    ],
)
def test_what_is_not_a_selector_or_can_never_match_is_named(selector: object, reason: str) -> None:
    assert reason in mistakes(selector)


UNREADABLE = "moon:resembles:odin"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        # Another branch of an `or` selects by itself.
        ({"or": ["file_name:contains:dream", "filename:contains:raw"]}, Match.YES),
        ({"or": [UNREADABLE, "filename:contains:raw"]}, Match.YES),
        ({"or": [UNREADABLE, "filename:contains:dream"]}, Match.NO),
        ({"or": ["filename:starts_with:odin", "filename:contains:raw"]}, Match.YES),
        ({"or": ["filename:starts_with:odin", "filename:contains:dream"]}, Match.NO),
        ({"or": ["filename:contains:raw"], "note": "x"}, Match.YES),
        ({"or": ["filename:contains:dream"], "note": "x"}, Match.NO),
        # A branch with a slip tells which files it means: they are not for another schema.
        ("file_name:contains:odin", Match.MEANT),
        ("file_name:contains:dream", Match.NO),
        ("FILENAME:contain:odin", Match.MEANT),
        ("filename:startswith:/data/odin", Match.MEANT),
        ({"or": ["file_name:contains:odin", "filename:contains:dream"]}, Match.MEANT),
        ({"and": ["*", "file_name:contains:odin"]}, Match.MEANT),
        ({"and": ["filename:contains:raw", "file_name:contains:dream"]}, Match.NO),
        # So does the rest of an `and`.
        ({"and": ["filename:contains:odin", UNREADABLE]}, Match.MEANT),
        ({"and": ["filename:contains:dream", UNREADABLE]}, Match.NO),
        ({"and": ["filename:contains:odin"], "or": []}, Match.MEANT),
        # Every file is not a statement about this one.
        ({"and": ["*", UNREADABLE]}, Match.UNREADABLE),
        ({"or": [UNREADABLE]}, Match.UNREADABLE),
        (UNREADABLE, Match.UNREADABLE),
        ({}, Match.UNREADABLE),
        ({"and": []}, Match.UNREADABLE),
        ({"and": "*"}, Match.UNREADABLE),
        ({"not": ["*"]}, Match.UNREADABLE),
        ({"source": "filename", "operator": "contains"}, Match.UNREADABLE),
    ],
)
def test_a_mistake_in_one_branch_costs_this_branch_alone(selector: object, expected: Match) -> None:
    assert read_selector(selector).match(ODIN) is expected
    assert mistakes(selector)


arguments = st.text(alphabet="/ab:c.", min_size=1, max_size=5)


@given(paths, arguments)
def test_the_condensed_and_the_expanded_form_are_the_same(path: str, argument: str) -> None:
    for operator, expected in (("contains", argument in path), ("starts_with", path.startswith(argument))):
        if operator == "starts_with" and not argument.startswith("/"):
            continue
        assert selects(f"filename:{operator}:{argument}", path) is expected
        expanded = {"source": "filename", "operator": operator, "operand_2": argument}
        assert selects(expanded, path) is expected


@given(paths, st.lists(arguments, min_size=1, max_size=4))
def test_and_and_or_are_all_and_any(path: str, contained: list[str]) -> None:
    selectors = [f"filename:contains:{argument}" for argument in contained]
    assert selects({"and": selectors}, path) is all(argument in path for argument in contained)
    assert selects({"or": selectors}, path) is any(argument in path for argument in contained)


@given(
    st.recursive(
        st.text() | st.none() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["and", "or", "source", "operator", "operand_2", "x"]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_written_selects_or_is_mistaken(raw: object) -> None:
    selector = read_selector(raw)
    if not list(selector.mistakes()):
        assert selector.match(ODIN) in {Match.YES, Match.NO}
    elif selector.match(ODIN) is Match.YES:
        # Some branch of it is good.
        assert isinstance(raw, dict)


NAME = "/entry/instrument/name"


@dataclass
class Content:
    """A file's content by path; what is not in there is not in the file, and an error is raised."""

    values: Mapping[str, Scalar | list[Any] | Exception]
    asked: list[str] = field(default_factory=list)

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        pytest.fail(f"asked for one value at {path} (as text: {as_text}); there may be several")

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        assert as_text
        self.asked.append(path)
        value = self.values.get(path, LookupError(f"There is no dataset at {path}."))
        if isinstance(value, Exception):
            raise value
        return NexusValue(value)


def on_content(selector: object, values: Mapping[str, Any], path: str = ODIN) -> Match:
    return read_selector(selector).match(path, Content(values))


@pytest.mark.parametrize(
    ("selector", "value", "expected"),
    [
        ("nexus:/entry/instrument/name:equals:ODIN", ["ODIN"], Match.YES),
        ("nexus:/entry/instrument/name:equals:ODI", ["ODIN"], Match.NO),
        ("nexus:/entry/instrument/name:equals:odin", ["ODIN"], Match.NO),
        ("nexus:/entry/instrument/name:starts_with:OD", ["ODIN"], Match.YES),
        ("nexus:/entry/instrument/name:starts-with:IN", ["ODIN"], Match.NO),
        ("nexus:/entry/instrument/name:contains:DI", ["ODIN"], Match.YES),
        # As written: what is between the colons of the argument belongs to it.
        ("nexus:/entry/instrument/name:equals:a:b: c", ["a:b: c"], Match.YES),
        (" nexus : /entry/instrument/name : equals :ODIN", ["ODIN"], Match.YES),
        # One of the values is enough.
        ("nexus:/entry/instrument/name:equals:ODIN", [["DREAM"], ["ODIN"]], Match.YES),
        ("nexus:/entry/instrument/name:equals:ODIN", [], Match.NO),
        # A number is one however it is written.
        ("nexus:/entry/instrument/name:equals:42", [42], Match.YES),
        ("nexus:/entry/instrument/name:equals:42.0", [42], Match.YES),
        ("nexus:/entry/instrument/name:equals:42", ["42.000"], Match.YES),
        ("nexus:/entry/instrument/name:equals:42", [43], Match.NO),
        ({"source": "nexus", "path": NAME, "operator": "equals", "operand_2": 42}, [42.0], Match.YES),
        ({"source": "nexus", "path": NAME, "operator": "equals", "operand_2": True}, [True], Match.YES),
        ({"operand_1": "nexus", "path": NAME, "operator": "equals", "operand_2": "ODIN"}, ["x"], Match.NO),
    ],
)
def test_a_condition_on_the_content_compares_the_values_at_its_path(
    selector: object, value: list[Any], expected: Match
) -> None:
    assert mistakes(selector) == ""
    assert on_content(selector, {NAME: value}) is expected


def test_a_path_that_is_not_in_the_file_makes_its_branch_false() -> None:
    absent = f"nexus:{NAME}:contains:"

    assert on_content(absent, {}) is Match.NO
    assert on_content({"or": [absent, "filename:contains:odin"]}, {}) is Match.YES
    assert on_content({"and": [absent, "filename:contains:odin"]}, {}) is Match.NO


def test_a_value_that_cannot_be_read_claims_the_file_to_fail() -> None:
    selector = {"and": ["filename:contains:odin", f"nexus:{NAME}:equals:ODIN"]}
    content = Content({NAME: ValueError("it is stored in another file.")})

    assert read_selector(selector).match(ODIN, content) is Match.MEANT
    assert read_selector(selector).match(DREAM, content) is Match.NO
    assert list(read_selector(selector).unreadable(content)) == [
        f"nexus:{NAME} cannot be compared: it is stored in another file."
    ]


@pytest.mark.parametrize(
    ("selector", "path", "reads"),
    [
        ("nexus:/a:equals:1", ODIN, ["/a"]),
        ({"and": ["filename:contains:odin", "nexus:/a:equals:1"]}, ODIN, ["/a"]),
        ({"and": ["filename:contains:odin", "nexus:/a:equals:1"]}, DREAM, []),
        ({"or": ["filename:contains:odin", "nexus:/a:equals:1"]}, ODIN, []),
        ({"or": ["filename:contains:odin", "nexus:/a:equals:1"]}, DREAM, ["/a"]),
        (
            {
                "or": [
                    {"and": ["filename:contains:odin", "nexus:/a:equals:1", "nexus:/b:equals:1"]},
                    {"and": ["filename:contains:dream", "nexus:/c:equals:1"]},
                ]
            },
            ODIN,
            ["/a", "/b"],
        ),
        ("nexuss:/a:equals:1", ODIN, ["/a"]),
        ("filename:contains:odin", ODIN, []),
        ("*", ODIN, []),
    ],
)
def test_only_what_decides_is_read(selector: object, path: str, reads: list[str]) -> None:
    selector_ = read_selector(selector)

    assert [read.path for read in selector_.reads(path)] == reads
    assert (selector_.match(path) is Match.UNDECIDED) == bool(reads)


conditions = st.sampled_from(
    [
        "*", "filename:contains:odin", "filename:contains:dream", "filename:resembles:odin",
        "filname:contains:odin", "nexus:/a:equals:1", "nexus:/b:equals:1", "nexus:/c:equal:1",
    ]
)  # fmt: skip
trees = st.recursive(
    conditions,
    lambda inner: st.dictionaries(
        st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=8,
)
contents = st.dictionaries(
    st.sampled_from(["/a", "/b", "/c"]), st.sampled_from([["1"], ["2"], ValueError("damaged")])
)


@given(trees, st.sampled_from([ODIN, DREAM]), contents)
def test_what_the_path_decides_is_so_whatever_the_content(
    tree: Any, path: str, values: dict[str, Any]
) -> None:
    selector = read_selector(tree)
    by_path = selector.match(path)
    with_content = selector.match(path, Content(values))

    assert with_content is not Match.UNDECIDED
    if by_path is not Match.UNDECIDED:
        assert with_content is by_path


@given(trees, st.sampled_from([ODIN, DREAM]), contents)
def test_nothing_decides_but_what_is_asked_for(tree: Any, path: str, values: dict[str, Any]) -> None:
    selector = read_selector(tree)
    asked = {read.path for read in selector.reads(path)}
    only_asked = {place: value for place, value in values.items() if place in asked}

    if selector.match(path) is Match.UNDECIDED:
        assert selector.match(path, Content(values)) is selector.match(path, Content(only_asked))


@pytest.mark.parametrize(
    ("selector", "what"),
    [
        ("nexus:/entry/title", "not of the form nexus:/path:operator:argument"),
        ("nexus:contains:odin", "not of the form nexus:/path:operator:argument"),
        ("nexus:entry/title:equals:a", "'entry/title' is not a path in the file; begin it with /"),
        ("nexus:/entry/title:equal:a", "unknown operator 'equal'; did you mean equals?"),
        ("nexus:/entry/title:resembles:a", "unknown operator 'resembles'; use one of contains, equals"),
        ("nexuss:/entry/title:equals:a", "unknown source 'nexuss'; did you mean nexus?"),
        ("nexus:/entry/(*/title:equals:a", "component '(*' is not a regular expression"),
        ({"source": "nexus", "operator": "equals", "operand_2": "a"}, "lacks `path`"),
        ({"source": "nexus", "path": "/a", "operator": "equals"}, "lacks operand_2"),
        (
            {"source": "nexus", "path": "/a", "operator": "equals", "operand_2": "a", "unit": "m"},
            "the key 'unit' is not known",
        ),
        ({"source": "filename", "path": "/a", "operator": "contains", "operand_2": "a"}, "the key 'path'"),
    ],
)
def test_a_mistake_in_a_condition_on_the_content_is_named(selector: object, what: str) -> None:
    assert what in mistakes(selector)


def test_a_slip_in_a_condition_on_the_content_claims_what_is_meant() -> None:
    selector = f"nexus:{NAME}:equal:ODIN"

    assert on_content(selector, {NAME: ["ODIN"]}) is Match.MEANT
    assert on_content(selector, {NAME: ["DREAM"]}) is Match.NO
