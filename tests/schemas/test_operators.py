"""Operators: each one as a property of all its values, its examples, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.schemas.operators import MOST_TEXT, OPERATORS, Arguments, canonical_name

texts = st.text(max_size=20)
numbers = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9)
scalars = st.none() | st.booleans() | numbers | texts
lists = st.lists(scalars, max_size=5)
number_lists = st.lists(numbers, min_size=1, max_size=6)
folders = st.lists(st.text(alphabet="ab .#%ö", min_size=1, max_size=4), min_size=3, max_size=5).filter(
    lambda parts: "." not in parts and ".." not in parts
)
anything = st.recursive(
    scalars | st.sampled_from([math.nan, math.inf]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def apply(name: str, value: Any, **arguments: Any) -> Any:
    return OPERATORS[canonical_name(name)].apply(value, Arguments(**arguments))


def test_there_are_these_operators() -> None:
    # Facilities' schemas name them; one that goes away breaks their files.
    assert set(OPERATORS) == {
        "join_with_space", "filename", "dirname", "dirname_2", "getitem", "str_replace", "urlsafe",
        "to_lower", "to_upper", "sum", "max", "min", "mean", "first", "last", "length", "split", "regex",
        "panet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dirname-2", "dirname_2"),
        ("dirname_2", "dirname_2"),
        ("str-replace", "str_replace"),
        ("to-lower", "to_lower"),
        ("to_upper", "to_upper"),
        ("join-with-space", "join_with_space"),
        ("sum", "sum"),
    ],
)
def test_hyphens_and_underscores_are_the_same_operator(written: str, meant: str) -> None:
    assert canonical_name(written) == meant
    assert meant in OPERATORS


@given(st.lists(texts | numbers, max_size=5))
def test_join_with_space_joins_with_a_comma(items: list[Any]) -> None:
    assert apply("join_with_space", items) == ", ".join(str(item) for item in items)


def test_join_with_space_reads_a_list_that_is_given_as_its_text() -> None:
    assert apply("join_with_space", "['Ada', 'Bo']") == "Ada, Bo"
    assert apply("join_with_space", '["Ada", "Bo"]') == "Ada, Bo"


def test_join_with_space_joins_the_keys_of_a_dict() -> None:
    assert apply("join_with_space", {"Ada": 1, "Bo": 2}) == "Ada, Bo"
    assert apply("join_with_space", {}) == ""


@given(folders)
def test_filename_dirname_and_grandparent_are_parts_of_the_path(parts: list[str]) -> None:
    path = PurePosixPath("/", *parts)
    assert apply("filename", str(path)) == path.name
    assert apply("dirname", str(path)) == str(path.parent)
    assert apply("dirname-2", str(path)) == str(path.parent.parent)


def test_parts_of_a_path_that_has_none() -> None:
    assert apply("filename", "run.hdf") == "run.hdf"
    assert apply("dirname", "run.hdf") == ""
    assert apply("dirname-2", "/run.hdf") == "/"


@given(st.lists(scalars, min_size=1, max_size=6), st.data())
def test_getitem_is_the_item_of_that_number(items: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(-len(items), len(items) - 1))
    assert apply("getitem", items, field=index) is items[index]
    assert apply("getitem", items, field=str(index)) is items[index]


@given(st.dictionaries(texts, scalars, min_size=1, max_size=4), st.data())
def test_getitem_is_the_entry_of_that_key(entries: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(entries)))
    assert apply("getitem", entries, field=key) is entries[key]


def test_getitem_finds_a_numeric_key_and_reads_collections_from_their_text() -> None:
    assert apply("getitem", {"0": "zero"}, field=0) == "zero"
    assert apply("getitem", '{"a": [1]}', field="a") == [1]
    assert apply("getitem", "[{'pid': 'x'}]", field=0) == {"pid": "x"}


@given(texts, st.text(min_size=1, max_size=3), texts)
def test_str_replace_replaces_plain_text(value: str, pattern: str, replacement: str) -> None:
    expected = value.replace(pattern, replacement)
    assert apply("str-replace", value, pattern=pattern, replacement=replacement) == expected


def test_str_replace_takes_no_expression() -> None:
    assert apply("str-replace", "a.b*c", pattern=".", replacement="*") == "a*b*c"
    assert apply("str-replace", 443503, pattern="4", replacement="") == "3503"


@given(texts | numbers)
def test_urlsafe_can_be_put_into_an_address_and_taken_out(value: Any) -> None:
    found = apply("urlsafe", value)
    assert set(found) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~+%")
    assert unquote_plus(found) == str(value)


def test_urlsafe_writes_a_space_as_a_plus() -> None:
    assert apply("urlsafe", "20.500.12269/a b") == "20.500.12269%2Fa+b"


@given(texts)
def test_to_lower_and_to_upper_change_case_only(value: str) -> None:
    assert apply("to-lower", value) == value.lower()
    assert apply("to-upper", value) == value.upper()


@given(number_lists)
def test_sum_max_min_and_mean_are_those_of_the_numbers(items: list[float]) -> None:
    assert apply("sum", items) == sum(items)
    assert apply("max", items) == max(items)
    assert apply("min", items) == min(items)
    mean = apply("mean", items)
    assert mean == pytest.approx(sum(items) / len(items), abs=1e-6)
    assert isinstance(mean, float)


@given(st.lists(number_lists, min_size=1, max_size=3))
def test_numbers_of_a_grid_are_taken_together(rows: list[list[float]]) -> None:
    flat = [item for row in rows for item in row]
    assert apply("sum", rows) == sum(flat)
    assert apply("max", [rows]) == max(flat)


def test_numbers_may_be_given_as_their_text_or_in_a_dict() -> None:
    assert apply("sum", "[1, 2.5]") == 3.5
    assert apply("max", {"a": 1, "b": 7}) == 7


def test_integers_stay_integers() -> None:
    assert isinstance(apply("sum", [1, 2]), int)


@pytest.mark.parametrize("value", [[], [[]], {}])
def test_the_sum_of_no_numbers_is_zero_and_they_have_no_mean(value: object) -> None:
    assert apply("sum", value) == 0
    for name in ("max", "min", "mean"):
        with pytest.raises(ValueError, match="at least one number"):
            apply(name, value)


@pytest.mark.parametrize("name", ["sum", "max", "min", "mean"])
@pytest.mark.parametrize("value", [["a"], [1, "2"], [True], [None], 5, None, "abc", [{"a": 1}], {"a": "b"}])
def test_what_is_no_list_of_numbers_has_no_sum(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        apply(name, value)


@given(st.lists(scalars, min_size=1, max_size=5))
def test_first_and_last_are_the_ends(items: list[Any]) -> None:
    before = list(items)
    assert apply("first", items) is items[0]
    assert apply("last", items) is items[-1]
    assert items == before


@given(texts | lists | st.dictionaries(texts, scalars, max_size=4))
def test_length_counts(value: Any) -> None:
    assert apply("length", value) == len(value)


@given(texts, st.text(min_size=1, max_size=3))
def test_split_can_be_joined_again(value: str, pattern: str) -> None:
    parts = apply("split", value, pattern=pattern)
    assert pattern.join(parts) == value
    assert not any(pattern in part for part in parts)


@given(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.integers(0, 10**6))
def test_regex_is_the_first_group_of_the_first_match(word: str, number: int) -> None:
    assert apply("regex", f"..{word}_{number}-{word}_1", pattern=r"[a-z]+_(\d+)") == str(number)


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("filename", 5, {}),
        ("dirname", None, {}),
        ("dirname-2", ["/a/b"], {}),
        ("join_with_space", "abc", {}),
        ("join_with_space", 5, {}),
        ("getitem", [1], {"field": 1}),
        ("getitem", [1], {"field": -2}),
        ("getitem", [1], {"field": "a"}),
        ("getitem", {"a": 1}, {"field": "b"}),
        ("getitem", "abc", {"field": 0}),
        ("getitem", 5, {"field": 0}),
        ("getitem", None, {"field": 0}),
        ("first", [], {}),
        ("last", [], {}),
        ("first", 5, {}),
        ("length", 5, {}),
        ("length", None, {}),
        ("split", 5, {"pattern": ","}),
        ("split", "a,b", {"pattern": ""}),
        ("regex", "abc", {"pattern": "(x)"}),
        ("regex", "abc", {"pattern": "a|(x)"}),
        ("regex", ["abc"], {"pattern": "(a)"}),
        ("regex", "a" * (MOST_TEXT + 1), {"pattern": "(a)"}),
    ],
)
def test_what_an_operator_cannot_do_is_an_error_with_a_reason(
    name: str, value: object, arguments: dict[str, Any]
) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)) as caught:
        apply(name, value, **arguments)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("name", "keeps"),
    [
        ("sum", True), ("max", True), ("min", True), ("mean", True), ("first", True), ("last", True),
        ("getitem", True), ("length", False), ("join_with_space", False), ("filename", False),
        ("split", False), ("regex", False), ("urlsafe", False), ("str_replace", False),
    ],
)  # fmt: skip
def test_the_unit_stays_where_the_result_is_still_such_a_quantity(name: str, keeps: bool) -> None:
    assert OPERATORS[name].keeps_unit is keeps


@pytest.mark.parametrize("name", sorted(OPERATORS))
@given(value=anything)
def test_no_value_makes_an_operator_fail_unexpectedly(name: str, value: object) -> None:
    before = json.dumps(value)
    reason = None
    try:
        apply(name, value, field=0, pattern="(a)", replacement="b")
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        reason = str(error)
    assert reason != ""
    assert json.dumps(value) == before


def test_a_search_that_would_take_years_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="cannot be searched for"):
        apply("regex", "a" * 60 + "!", pattern="(a+)+$")
