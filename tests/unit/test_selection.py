"""Selectors: which files a schema is for, in each way of writing it, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.schemas.selection import parse_selector

ODIN = "/data/odin/443503/raw/run:1.hdf"
DREAM = "/data/dream/1/raw/run.hdf"

paths = st.text(min_size=1, max_size=12).map(lambda text: "/" + text)


def selects(selector: object, path: str = ODIN) -> bool:
    return parse_selector(selector)(path)


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
        ({"source": "filename", "operator": "contains", "operand": "x"}, "unknown keys"),
        # Without it the schema would claim every file of the facility.
        ({"source": "filename", "operator": "contains"}, "operand_2"),
        ({"source": "filename", "operator": "contains", "operand_2": None}, "operand_2"),
        ({"not": ["*"]}, "unknown key 'not'"),
        ({True: ["*"]}, "unknown key True"),
        ({"and": []}, "needs a list"),
        ({"or": "filename:contains:odin"}, "needs a list"),
        ({"and": ["*", {"or": ["filename:like:x"]}]}, "unknown operator 'like'"),
        ({"and": ["*"], "or": ["moon:contains:x"]}, "unknown source 'moon'"),
        ("filename:starts_with:odin", "can never match"),
        ({"source": "filename", "operator": "starts_with", "operand_2": "odin"}, "can never match"),
        ({"and": ["filename:starts_with:/data/odin", "filename:starts_with:/data/dream"]}, "can never match"),
    ],
)
def test_what_is_no_selector_or_can_never_match_is_refused_by_name(selector: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_selector(selector)


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
def test_whatever_is_written_is_a_selector_or_refused(raw: object) -> None:
    try:
        selector = parse_selector(raw)
    except ValueError:
        return
    assert selector(ODIN) in {True, False}
