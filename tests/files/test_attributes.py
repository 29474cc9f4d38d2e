"""Attributes of groups and datasets, by a path whose last component has an ``@``."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scicat_dagster.files.isolated.hdf5 import open_nexus
from scicat_dagster.files.reading import Read, look_at, read_members, read_values
from scicat_dagster.files.values import NexusValue
from scicat_dagster.schemas.selection import expression_mistakes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "lrcs3701.nx5"
    with h5py.File(made, "w") as file:
        file.attrs["user"] = "a user"
        file.attrs["HDF5_Version"] = "1.8.5"
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        energy = entry.create_dataset("energy", data=np.float32(117.6))
        energy.attrs.update({"units": "meV", "calibration_status": "nominal", "limits": np.arange(3.0)})
        for name, serial in (("detector_1", 7), ("detector_2", 8)):
            entry.create_group(name).attrs["serial"] = serial
    return made


def one(path: Path, where: str) -> NexusValue:
    with open_nexus(path) as nexus:
        return nexus.read_one(where)


def every(path: Path, where: str) -> Any:
    with open_nexus(path) as nexus:
        return nexus.read_all(where).value


def test_attributes_of_the_root_of_groups_and_of_datasets_are_values(path: Path) -> None:
    assert one(path, "/@user") == NexusValue("a user")
    assert one(path, "/entry/detector_1@serial").value == 7
    assert one(path, "/entry/energy@calibration_status").value == "nominal"
    assert one(path, "/entry/energy@units") == NexusValue("meV", "")
    assert every(path, "/entry/energy@limits") == [0.0, 1.0, 2.0]


def test_wildcards_choose_the_owners(path: Path) -> None:
    assert every(path, "/entry/^detector.*@serial") == [7, 8]
    assert every(path, "/entry/^nothing.*@serial") == []
    with pytest.raises(LookupError, match="2 attributes match"):
        one(path, "/entry/^detector.*@serial")


def test_a_dataset_whose_name_has_an_at_comes_first(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["entry/energy@limits"] = "a dataset"
        file["entry/a@b"] = 1
        file["entry/a@b"].attrs["c"] = "its attribute"
    assert one(path, "/entry/energy@limits").value == "a dataset"
    assert one(path, "/entry/a@b").value == 1
    assert one(path, "/entry/a@b@c").value == "its attribute"


@pytest.mark.parametrize("where", ["/entry/energy@nothing", "/nowhere@user", "/@", "/@user/x", "/a*[@]"])
def test_where_there_is_no_attribute_there_is_no_value(path: Path, where: str) -> None:
    with pytest.raises(LookupError):
        one(path, where)


def test_several_values_where_one_was_meant_say_what_to_do(path: Path) -> None:
    with pytest.raises(LookupError, match=r"/entry/energy@limits holds 3 values.*ends in \[\]"):
        one(path, "/entry/energy@limits")


@pytest.mark.parametrize(
    "written",
    [
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.zeros(20_000, "f8"),
        np.bytes_(b"x" * 100_000),
    ],
    ids=["compound", "long", "long text"],
)
def test_what_metadata_cannot_hold_is_refused_with_its_place(tmp_path: Path, written: Any) -> None:
    path = tmp_path / "run.nxs"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("odd", written)
    with pytest.raises((ValueError, TypeError), match="/@odd"):
        every(path, "/@odd")


def test_an_empty_attribute_is_an_empty_list_and_no_single_value(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs.create("nothing", h5py.Empty("f8"))
    assert every(path, "/@nothing") == []
    with pytest.raises(LookupError, match="/@nothing holds 0 values"):
        one(path, "/@nothing")


def test_an_attribute_is_read_in_isolation_as_a_dataset_is(path: Path) -> None:
    reads = [
        Read(path="/@user"),
        Read(path="/entry/energy@nothing"),
        Read(path="/entry/energy", as_text=True),
    ]

    contents = read_values(look_at(path), reads)

    assert contents.read_one("/@user").value == "a user"
    assert contents.read_one("/entry/energy", as_text=True) == NexusValue("117.6", "meV")
    with pytest.raises(LookupError, match="energy@nothing"):
        contents.read_one("/entry/energy@nothing")


def test_members_have_their_attributes_but_those_of_the_format(path: Path) -> None:
    found = {member.path: member.attributes for member in read_members(path)}

    assert found[""] == {"user": "a user"}
    assert found["/entry"] == {}
    assert found["/entry/energy"] == {"calibration_status": "nominal"}
    assert found["/entry/detector_1"] == {"serial": "7"}


_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0@*"), min_size=1, max_size=30
).filter(lambda name: name not in {".", "NX_class"})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=_NAMES, value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_name_and_any_text_is_read(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "run.nxs"
    with h5py.File(path, "w") as file:
        file.create_group("entry").attrs[name] = value
    assert one(path, f"/entry@{name}").value == value


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.text(st.sampled_from("/@*.[]()^$energy"), max_size=20))
def test_whatever_a_path_is_it_is_a_list_or_a_failure_of_a_known_kind(path: Path, where: str) -> None:
    is_refused_by_schemas = bool(list(expression_mistakes(where)))
    with open_nexus(path) as nexus, suppress(LookupError, ValueError, TypeError):
        try:
            assert isinstance(nexus.read_all(where).value, list)
        except re.error:
            assert is_refused_by_schemas
