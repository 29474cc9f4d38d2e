"""Value types: what each makes of a value, and what it refuses to guess."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.schemas.conversion import VALUE_TYPES, ValueType, convert

texts = st.text(max_size=10)
integers = st.integers(-(2**63), 2**64)
floats = st.floats(allow_nan=False)
scalars = st.none() | st.booleans() | integers | floats | texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
moments = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1))  # noqa: DTZ001


def to(value: object, value_type: str) -> Any:
    return convert(value, cast(ValueType, value_type))


def test_there_are_these_value_types() -> None:
    assert set(VALUE_TYPES) == {
        "string", "string[]", "integer", "integer[]", "float", "float[]", "date", "dict", "list", "email",
        "link", "none",
    }  # fmt: skip


@given(scalars)
def test_a_string_is_the_text_of_the_value(value: object) -> None:
    if value is not None:
        for value_type in ("string", "email", "link"):
            assert to(value, value_type) == str(value)


@given(integers)
def test_an_integer_is_one_however_it_is_written(value: int) -> None:
    for written in (value, str(value), f" {value} "):
        found = to(written, "integer")
        assert found == value
        assert type(found) is int


@given(st.integers(-(2**50), 2**50))
def test_a_whole_float_is_an_integer(value: int) -> None:
    found = to(float(value), "integer")
    assert found == value
    assert type(found) is int


@given(floats)
def test_a_float_is_one_however_it_is_written(value: float) -> None:
    for written in (value, repr(value)):
        found = to(written, "float")
        assert found == value
        assert type(found) is float


def test_what_is_no_json_number_stays_here() -> None:
    # It becomes null where a dataset is built; operators may need it before.
    assert math.isnan(to("nan", "float"))
    assert to(math.inf, "float") == math.inf


@given(st.lists(integers, max_size=5))
def test_lists_of_numbers_are_converted_item_by_item(values: list[int]) -> None:
    assert to(values, "integer[]") == values
    assert to([str(value) for value in values], "integer[]") == values
    assert to([str(value) for value in values], "float[]") == [float(value) for value in values]
    assert to(values, "string[]") == [str(value) for value in values]
    assert all(type(value) is float for value in to(values, "float[]"))


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3))
def test_nested_lists_keep_their_shape(rows: list[list[int]]) -> None:
    assert to(rows, "integer[]") == rows
    assert to(rows, "string[]") == [[str(value) for value in row] for row in rows]


@pytest.mark.parametrize(
    ("value", "value_type", "expected"),
    [
        ("one text", "string[]", ["one text"]),
        ("", "string[]", [""]),
        (5, "string[]", ["5"]),
        (5, "integer[]", [5]),
        ("5", "integer[]", [5]),
        (2.5, "float[]", [2.5]),
        (("a", "b"), "string[]", ["a", "b"]),
        ("'ab'", "string[]", ["'ab'"]),
        ("{1}", "string[]", ["{1}"]),
        ([[1, 2], [3]], "string[]", [["1", "2"], ["3"]]),
        ('["a", "b"]', "string[]", ["a", "b"]),
        ("['a', 'b']", "string[]", ["a", "b"]),
        ("('a', 'b')", "string[]", ["a", "b"]),
        (" [1, 2]", "integer[]", [1, 2]),
        ("[1, 2]", "list", [1, 2]),
        ("(1, 2)", "list", [1, 2]),
        ("[]", "list", []),
        ("[None, True]", "list", [None, True]),
        ("[null, true]", "list", [None, True]),
        ([{"a": 1}], "list", [{"a": 1}]),
        ('{"a": 1}', "dict", {"a": 1}),
        ("{'a': None}", "dict", {"a": None}),
        ({"a": 1}, "dict", {"a": 1}),
        ({1: 2}, "dict", {"1": 2}),
        (None, "none", None),
    ],
)
def test_a_value_becomes(value: object, value_type: str, expected: object) -> None:
    assert to(value, value_type) == expected


@given(st.lists(json_values, max_size=4))
def test_a_list_given_as_its_json_or_python_text_is_that_list(values: list[object]) -> None:
    assert to(values, "list") == values
    assert to(json.dumps(values), "list") == values
    if all(math.isfinite(number) for number in _floats(values)):
        assert to(repr(values), "list") == values


@given(st.dictionaries(texts, json_values, max_size=4))
def test_a_dict_given_as_its_json_or_python_text_is_that_dict(values: dict[str, object]) -> None:
    assert to(values, "dict") == values
    assert to(json.dumps(values), "dict") == values
    if all(math.isfinite(number) for number in _floats(values)):
        assert to(repr(values), "dict") == values


def _floats(value: object) -> list[float]:
    if isinstance(value, float):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [number for item in inner for number in _floats(item)]


# --- Dates


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-10-28T09:18:14.376Z", "2024-10-28T09:18:14.376000+00:00"),
        ("2024-10-28T09:18:14Z", "2024-10-28T09:18:14+00:00"),
        ("2024-10-28T09:18:14", "2024-10-28T09:18:14+00:00"),
        ("2024-10-28T11:18:14+02:00", "2024-10-28T11:18:14+02:00"),
        ("2024-10-28 09:18:14.5", "2024-10-28T09:18:14.500000+00:00"),
        ("2024-10-28", "2024-10-28T00:00:00+00:00"),
        (" 2024-10-28T09:18:14Z ", "2024-10-28T09:18:14+00:00"),
        # File writers give nanoseconds.
        ("2024-10-28T09:18:14.376123456Z", "2024-10-28T09:18:14.376123+00:00"),
        (1730107094, "2024-10-28T09:18:14+00:00"),
        (1730107094.376, "2024-10-28T09:18:14.376000+00:00"),
        (0, "1970-01-01T00:00:00+00:00"),
        (-1.5, "1969-12-31T23:59:58.500000+00:00"),
    ],
)
def test_a_date_is_iso_8601_with_an_offset(value: object, expected: str) -> None:
    assert to(value, "date") == expected


@given(moments)
def test_iso_text_is_the_same_moment_and_in_utc_where_it_says_nothing(moment: datetime) -> None:
    found = datetime.fromisoformat(to(moment.isoformat(), "date"))
    assert found == moment.replace(tzinfo=UTC)
    assert to(found.isoformat(), "date") == found.isoformat()


@given(st.integers(0, 4_000_000_000), st.integers(0, 999))
def test_seconds_since_1970_are_that_moment(seconds: int, milliseconds: int) -> None:
    found = datetime.fromisoformat(to(seconds + milliseconds / 1000, "date"))
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, milliseconds=milliseconds)
    assert abs(found - expected) < timedelta(milliseconds=1)


def test_a_date_that_yaml_has_read_already_is_a_date() -> None:
    # `value: 2024-10-28T09:18:14Z` without quotes in a schema file is not a text for YAML.
    assert to(datetime(2024, 10, 28, 9, 18, 14, tzinfo=UTC), "date") == "2024-10-28T09:18:14+00:00"
    assert to(datetime(2024, 10, 28, tzinfo=UTC).date(), "date") == "2024-10-28T00:00:00+00:00"


# --- Refusals


@pytest.mark.parametrize("value_type", [name for name in VALUE_TYPES if name != "none"])
def test_no_value_is_not_replaced_by_a_default(value_type: str) -> None:
    with pytest.raises(ValueError, match="no value"):
        to(None, value_type)


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        ("abc", "integer"),
        ("", "integer"),
        ("2.5", "integer"),
        (math.nan, "integer"),
        (math.inf, "integer"),
        ([1], "integer"),
        ({}, "integer"),
        ("abc", "float"),
        ("", "float"),
        ([1.0], "float"),
        pytest.param(10**400, "float", id="huge-float"),
        ("abc", "integer[]"),
        ([1, "a"], "integer[]"),
        ([None], "float[]"),
        ([[1], ["a"]], "float[]"),
        ("[1, 2", "integer[]"),
        ({"a": 1}, "string[]"),
        ("abc", "list"),
        ("5", "list"),
        (5, "list"),
        ({"a": 1}, "list"),
        ('{"a": 1}', "list"),
        ("[1, 2", "list"),
        ("__import__('os')", "list"),
        ("[x for x in range(3)]", "list"),
        pytest.param(f"[{'1,' * 600_000}1]", "list", id="long-list"),
        ("abc", "dict"),
        ("[1]", "dict"),
        ([1], "dict"),
        ([["a", 1]], "dict"),
        (5, "dict"),
        ("yesterday", "date"),
        ("", "date"),
        ("2024-13-45", "date"),
        (True, "date"),
        (math.nan, "date"),
        (math.inf, "date"),
        (1e30, "date"),
        pytest.param(10**400, "date", id="huge-date"),
        ([2024], "date"),
        ("x", "none"),
        (0, "none"),
        ("", "none"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason_that_stays_short(value: object, value_type: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        to(value, value_type)
    assert 0 < len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", ["[b'x']", "[1j]", "[{1, 2}]", "[...]", "[(1, b'x')]", "[{b'k': 1}]", "[{(1, 2): 3}]"]
)
def test_python_text_of_what_is_no_json_is_refused(text: str) -> None:
    for value_type in ("list", "string[]"):
        try:
            found = to(text, value_type)
        except (ValueError, TypeError):
            continue
        json.dumps(found)


@pytest.mark.parametrize("depth", [100, 300, 600, 5000])
def test_deeply_nested_text_is_converted_or_refused(depth: int) -> None:
    for value_type in ("list", "string[]", "dict"):
        try:
            to("[" * depth + "]" * depth, value_type)
        except (ValueError, TypeError):
            continue


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@given(value=json_values | texts.map(lambda text: f"[{text}]") | texts.map(lambda text: f"{{{text}}}"))
def test_every_value_is_converted_to_plain_json_or_refused(value_type: str, value: object) -> None:
    try:
        found = to(value, value_type)
    except (ValueError, TypeError):
        return
    again = json.loads(json.dumps(found))
    assert again == found or "nan" in json.dumps(found).lower()
    if value_type in {"string", "email", "link", "date"}:
        assert isinstance(found, str)
    elif value_type.endswith("[]") or value_type == "list":
        assert isinstance(found, list)
