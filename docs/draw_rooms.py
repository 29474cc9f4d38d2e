"""Print the rooms of the package and the imports between them as Markdown: ``python docs/draw_rooms.py``.

A room is a Python package; its modules are the ``.py`` files directly in it, without ``__init__``. An arrow
is at least one import from a module of one room to a module of another one. Nearly every room imports from
the modules at the top of the package, and some of these import from rooms: the top is counted, but not drawn,
and left out of the search for cycles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grimp

PACKAGE = "scicat_dagster"
LONGEST = 5


@dataclass(frozen=True)
class Module:
    """A module, with its number of lines."""

    name: str
    lines: int

    @property
    def room(self) -> str:
        """The package that it is in."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Arrow:
    """Imports from one room to another one."""

    importer: str
    imported: str


def main() -> None:
    """Draw the rooms of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--repo",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        help="the checkout to draw, by default this one",
    )
    root: Path = parser.parse_args().repo
    modules = modules_in(root)
    sys.stdout.write(page(modules, arrows_in(root)))


def modules_in(root: Path) -> list[Module]:
    """The modules of the package below ``root``, by name."""
    return [
        Module(
            ".".join(path.relative_to(root).with_suffix("").parts),
            len(path.read_text(encoding="utf-8").splitlines()),
        )
        for path in sorted((root / PACKAGE).rglob("*.py"))
        if path.stem != "__init__"
    ]


def arrows_in(root: Path) -> list[Arrow]:
    """The arrows between the rooms, by name. What the ``__init__`` of a room imports is the room's, too."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    packages = {
        ".".join(path.parent.relative_to(root).parts) for path in (root / PACKAGE).rglob("__init__.py")
    }

    def room(name: str) -> str:
        return name if name in packages else name.rpartition(".")[0]

    found = {
        Arrow(room(importer), room(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    return sorted(
        (arrow for arrow in found if arrow.importer != arrow.imported),
        key=lambda arrow: (arrow.importer, arrow.imported),
    )


def cycles(arrows: Iterable[Arrow]) -> list[tuple[str, ...]]:
    """Groups of rooms of which each one reaches every other one, without the top of the package."""
    targets: dict[str, set[str]] = {}
    for arrow in arrows:
        if PACKAGE not in (arrow.importer, arrow.imported):
            targets.setdefault(arrow.importer, set()).add(arrow.imported)
    reached = {room: _reached(room, targets) for room in targets}
    groups = {
        tuple(sorted(other for other in reached[room] if room in reached.get(other, set())))
        for room in targets
        if room in reached[room]
    }
    return sorted(groups)


def _reached(start: str, targets: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = list(targets.get(start, ()))
    while pending:
        room = pending.pop()
        if room not in found:
            found.add(room)
            pending += targets.get(room, ())
    return found


def page(modules: Sequence[Module], arrows: Sequence[Arrow]) -> str:
    """The Markdown: graph, table of rooms, counts, and the longest modules."""
    rooms = sorted({module.room for module in modules} | {arrow.importer for arrow in arrows})
    circles = cycles(arrows)
    lines = [
        "```mermaid",
        "graph TD",
        *(f'  {_id(room)}["{short(room)}"]' for room in rooms if room != PACKAGE),
        *(
            f"  {_id(arrow.importer)} --> {_id(arrow.imported)}"
            for arrow in arrows
            if PACKAGE not in (arrow.importer, arrow.imported)
        ),
        "```",
        "",
        "| room | modules | lines |",
        "|---|---:|---:|",
    ]
    for room in rooms:
        inside = [module for module in modules if module.room == room]
        lines.append(f"| `{short(room)}` | {len(inside)} | {sum(module.lines for module in inside):,} |")
    lines += [
        "",
        f"- Modules: {len(modules)}, with {sum(module.lines for module in modules):,} lines",
        f"- Rooms: {len(rooms)}",
        f"- Arrows between rooms: {len(arrows)}",
        f"- Cycles between rooms: {len(circles)}"
        + "".join(f"; {', '.join(short(room) for room in circle)}" for circle in circles),
        "- Longest modules: "
        + ", ".join(
            f"`{short(module.name)}` ({module.lines})"
            for module in sorted(modules, key=lambda module: (-module.lines, module.name))[:LONGEST]
        ),
    ]
    return "\n".join(lines) + "\n"


def short(name: str) -> str:
    """A name without the package; the package itself for its top."""
    return name.removeprefix(f"{PACKAGE}.")


def _id(room: str) -> str:
    return short(room).replace(".", "_")


if __name__ == "__main__":
    main()
