"""Rendering: values, texts and units in the place of ``<name>``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scicat_dagster.schemas.rendering import UnresolvedError, Value, references, render

names = st.from_regex(r"[a-z_][a-z0-9_.-]{0,8}", fullmatch=True)
plain_texts = st.text(max_size=10).filter(lambda text: "<" not in text and ">" not in text)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
variables = st.dictionaries(names, st.builds(Value, values, st.sampled_from(["", "mm", "K"])), max_size=4)

SOME = {
    "one": Value(1, "mm"),
    "two": Value(2.5, "mm"),
    "hot": Value(300, "K"),
    "name": Value("Ada"),
    "list": Value([1, 2], "mm"),
    "tricky": Value("<one>"),
    "none": Value(None),
    "with space": Value("spaced"),
}


@given(variables, names, values, st.sampled_from(["", "mm", "Å"]))
def test_exactly_a_name_is_the_value_itself_with_its_unit(
    others: dict[str, Value], name: str, value: object, unit: str
) -> None:
    found = render(f"<{name}>", {**others, name: Value(value, unit)})
    assert found.value is value
    assert found.unit == unit


@given(variables, st.lists(st.tuples(plain_texts, names), max_size=4), plain_texts)
def test_inside_a_longer_text_each_name_is_replaced_by_its_text(
    known: dict[str, Value], parts: list[tuple[str, str]], end: str
) -> None:
    known = {**{name: Value(name.upper(), "mm") for _, name in parts}, **known}
    template = "".join(f"{text}<{name}>" for text, name in parts) + end + "."
    expected = "".join(f"{text}{known[name].value}" for text, name in parts) + end + "."
    assert render(template, known) == Value(expected, "")


@given(variables, names, plain_texts, plain_texts)
def test_a_name_without_a_value_is_an_error_that_names_it(
    known: dict[str, Value], name: str, before: str, after: str
) -> None:
    known.pop(name, None)
    for template in (f"<{name}>", f"{before}<{name}>{after}", [f"<{name}>"], {"key": [f"{before}<{name}>"]}):
        with pytest.raises(UnresolvedError, match=f"<{name}>") as caught:
            render(template, known)
        assert caught.value.name == name


@given(plain_texts)
def test_text_without_names_stays_as_it_is(text: str) -> None:
    assert render(text, SOME) == Value(text)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<one>", Value(1, "mm")),
        (" <one>", Value(" 1")),
        ("<one><two>", Value("12.5")),
        ("<name> at <hot> K", Value("Ada at 300 K")),
        ("<list>!", Value("[1, 2]!")),
        ("<with space>", Value("spaced")),
        # What a value says is text: it is not rendered again.
        ("<tricky>", Value("<one>")),
        ("-<tricky>-", Value("-<one>-")),
        ("20.500.12269/<name>", Value("20.500.12269/Ada")),
        # No references: comparisons, an empty pair.
        ("1 < 2 > 0", Value("1 < 2 > 0")),
        ("1 < 2 and 3 > 2", Value("1 < 2 and 3 > 2")),
        ("< one>", Value("< one>")),
        ("<one >", Value("<one >")),
        ("<>", Value("<>")),
        ("<<one>>", Value("<1>")),
        ("", Value("")),
        (5, Value(5)),
        (2.5, Value(2.5)),
        # As JSON writes them.
        (True, Value("true")),
        (False, Value("false")),
        ([True], Value([True])),
        (None, Value(None)),
        ([1, 2], Value([1, 2])),
        ([], Value([])),
        ({}, Value({})),
        (["<one>", "<two>"], Value([1, 2.5], "mm")),
        (["<one>", "<hot>"], Value([1, 300])),
        (["<one>", 2], Value([1, 2])),
        (["<one>", "<one> mm"], Value([1, "1 mm"])),
        ({"a": "<one>", "b": "<list>"}, Value({"a": 1, "b": [1, 2]}, "mm")),
        ({"a": "<one>", "b": "<hot>"}, Value({"a": 1, "b": 300})),
        ({"a": {"b": ["<one>", ["<two>"]]}}, Value({"a": {"b": [1, [2.5]]}}, "mm")),
        ({"<one>": "<name>"}, Value({"1": "Ada"}, "")),
        ({"a <name>": {"<name>": "<hot>"}}, Value({"a Ada": {"Ada": 300}}, "K")),
        ({1: "<name>"}, Value({1: "Ada"})),
    ],
)
def test_a_template_becomes(template: object, expected: Value) -> None:
    assert render(template, SOME) == expected


@given(st.lists(st.sampled_from(["one", "two", "hot", "name", "list"]), min_size=1, max_size=5))
def test_the_unit_of_a_list_is_the_common_one_or_none(used: list[str]) -> None:
    found = render([f"<{name}>" for name in used], SOME)
    assert found.value == [SOME[name].value for name in used]
    units = {SOME[name].unit for name in used}
    assert found.unit == (units.pop() if len(units) == 1 else "")


def test_rendering_leaves_template_and_variables_alone() -> None:
    template = {"a": ["<one>", {"b": "<list>"}]}
    render(template, SOME)
    assert template == {"a": ["<one>", {"b": "<list>"}]}
    assert SOME["list"].value == [1, 2]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("<one> and <two>", ["one", "two"]),
        ({"a": ["<one>", {"b": "x<two>"}]}, ["one", "two"]),
        ("1 < 2 > 0", []),
        ("< not a name>", []),
        ("1 < 2 and 3 > 2", []),
        ("<größe> of <sample temp>", ["größe", "sample temp"]),
        ({"<one>": "<two>"}, ["one", "two"]),
        (["< a name of ours>"], [" a name of ours"]),
        ("<a name of ours>", ["a name of ours"]),
        (5, []),
        (None, []),
    ],
)
def test_references_are_found_where_rendering_would_look(template: object, expected: list[str]) -> None:
    assert list(references(template, {" a name of ours"})) == expected


@pytest.mark.parametrize("name", ["2theta", "größe", "sample temp", "a.b/c", "proposal id", "-"])
def test_a_name_that_is_not_plain_ascii_is_a_reference_as_well(name: str) -> None:
    for template in (f"<{name}>", f"ess_<{name}>", {f"<{name}>": "x"}):
        with pytest.raises(UnresolvedError) as caught:
            render(template, SOME)
        assert caught.value.name == name


def test_a_variable_that_failed_is_a_reference_however_it_is_named() -> None:
    assert render("< padded >", SOME) == Value("< padded >")
    with pytest.raises(UnresolvedError, match="< padded >"):
        render("< padded >", SOME, {" padded "})


@given(st.recursive(st.text(alphabet="<>ab .", max_size=8), lambda inner: st.lists(inner, max_size=3)))
def test_what_has_no_unknown_reference_can_be_rendered(template: object) -> None:
    known = {"a": Value(1), "b b": Value(2)}
    if all(name in known for name in references(template, known)):
        render(template, known)
    else:
        with pytest.raises(UnresolvedError):
            render(template, known)
