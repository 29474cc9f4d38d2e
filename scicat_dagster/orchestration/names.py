"""The names of one facility in Dagster: those of ``tags``, behind the key prefix of its component.

Asset keys, partitions, runs, cursors and events of an instance are found by name, so that two facilities in
one instance need different ones. What belongs to a facility therefore takes its :class:`Names`; what
belongs to the instance (storage, run queue, launcher, workers) does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import dagster as dg

from scicat_dagster.errors import PermanentError

SEPARATOR = "__"
"""Between the parts of a name that has no slashes. No part contains it, so that no two names are alike."""

_PART = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """The names of the facility with a key prefix; without one they are those of ``tags``.

    Raises
    ------
    PermanentError
        A part of the prefix cannot be part of a name.
    """

    prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in self.prefix:
            if not _PART.fullmatch(part):
                raise PermanentError(
                    f"key_prefix: {part!r} cannot be part of a name in Dagster.",
                    remedy="Use letters, digits and single underscores between them, such as odin or "
                    "ess/beer_2.",
                )

    @classmethod
    def parse(cls, text: str) -> Names:
        """The names behind a prefix such as ``odin`` or ``ess/odin``; empty is none."""
        return cls(tuple(text.split("/"))) if text else cls()

    def key(self, key: dg.AssetKey) -> dg.AssetKey:
        """The key of an asset of this facility."""
        return key.with_prefix(self.prefix) if self.prefix else key

    def spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """An asset of this facility, and what it depends on, from one with the names of ``tags``."""
        return spec.replace_attributes(
            key=self.key(spec.key),
            deps=[self.key(dep.asset_key) for dep in spec.deps],
            group_name=self.name(spec.group_name or ""),
        )

    def name(self, name: str) -> str:
        """The name of anything else: job, sensor, partitions definition, op, resource, stored value."""
        return SEPARATOR.join((*self.prefix, name))

    def has(self, name: str) -> bool:
        """Whether a name may be one of this facility; without a prefix whoever names it may be downstream."""
        return not self.prefix or name.startswith(self.name(""))

    @property
    def facility(self) -> str:
        """The key of the resource that is the :class:`~scicat_dagster.orchestration.facility.Facility`."""
        return self.name("facility")

    @property
    def io_manager(self) -> str:
        """The key of the resource that stores what travels between ops."""
        return self.name("io_manager")

    def __str__(self) -> str:
        """The prefix as :meth:`parse` reads it."""
        return "/".join(self.prefix)


UNPREFIXED = Names()
"""The names of an installation with one facility."""
