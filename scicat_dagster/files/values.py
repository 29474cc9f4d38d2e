"""Values of a NeXus file as the rest of the package sees them: with their unit, by absolute HDF5 path."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

Scalar = str | int | float | bool


@dataclass(frozen=True)
class NexusValue:
    """What a dataset of the file holds, and its ``units`` attribute (empty where it has none)."""

    value: Scalar | list[Any]
    unit: str = ""
    states_unit: bool = field(default=False, compare=False)
    """Whether the file states the unit, which may be the empty one."""
    unit_mistake: str = field(default="", compare=False)
    """Why the ``units`` attribute cannot be used, where that is so."""


class Reader(Protocol):
    """The values of a file, by absolute HDF5 paths.

    A component with ``*`` is searched as a regular expression in the names. What follows the last ``@`` is
    the name of an attribute of the group or dataset before it, where no dataset is called so.
    """

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        """The one value at a path: a scalar, or an array of one element.

        Parameters
        ----------
        as_text
            Numbers of less than double precision are the text of their own precision: 22.249, and not
            22.249000549316406.

        Raises
        ------
        LookupError
            There is nothing at the path, several values, or an array.
        ValueError
            The value is of a kind or size that metadata cannot hold.
        TransientError
            The storage failed.
        """
        ...

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        """Every value at a path, in file order, as a list; nested where one dataset has several dimensions.

        The list is empty where nothing matches a path with ``*``, and for an empty dataset. The unit is the
        common one, or empty where the datasets differ. Errors and ``as_text`` as for :meth:`read_one`.
        """
        ...


class Member(BaseModel):
    """A group or dataset of a file, for whoever wants to know what is in there."""

    model_config = ConfigDict(frozen=True)

    path: str
    nexus_class: str = ""
    """The ``NX_class`` of a group."""
    type: str = ""
    """The kind of a dataset's values: ``string``, or numpy's name of a number; empty for all others."""
    shape: tuple[int, ...] | None = None
    """None for a group."""
    unit: str = ""
    text: str = ""
    """The value, where the dataset has one only; its beginning and ``…`` where it is long."""
    attributes: dict[str, str] = {}
    """The beginnings of attributes that hold one value, by their names, without those that say how the file
    is to be read.
    """

    @property
    def size(self) -> int:
        """How many values a dataset has; 0 for a group."""
        return 0 if self.shape is None else math.prod(self.shape)
