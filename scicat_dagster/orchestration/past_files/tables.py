"""What the UI shows of a comparison of disk and catalogue: counts and tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.metadata import table
from scicat_dagster.orchestration.past_files.plan import Plan
from scicat_dagster.usecases.discover import Discovery
from scicat_dagster.usecases.walk import LeftOut

_COUNTS = ("on disk", "registered", "changed", "missing", "in flight", "failed", "requested")


def found_metadata(found: Discovery) -> dict[str, Any]:
    """The counts of a comparison, and the files that need attention."""
    changed = [file.path for file in found.of("changed")]
    shown: dict[str, Any] = {
        "on disk": len(found.files),
        "registered": len(found.of("registered")),
        "changed": len(changed),
        "missing": len(found.of("missing")),
        "unreadable": len(found.unreadable),
        "left out": len(found.refused),
    }
    if changed:
        shown["files that changed since they were registered"] = files_table(changed)
    if found.nothing_found:
        shown["folders without a data file"] = table(
            ("folder", "what there is"), ((folder.folder, folder.as_text()) for folder in found.nothing_found)
        )
    if found.unreadable:
        shown["what could not be read"] = _places_table(found.unreadable)
    if found.refused:
        shown["what was left out"] = _places_table(found.refused)
    return shown


def sweep_table(found: Discovery, plan: Plan, requested: Sequence[str]) -> dg.TableMetadataValue:
    """The counts by folder and instrument."""
    instruments = {file.path: (file.root, file.instrument) for file in found.files}

    def per_instrument(paths: Iterable[str]) -> Counter[tuple[str, str]]:
        return Counter(instruments[path] for path in paths)

    flying, failed, wanted = map(per_instrument, (plan.in_flight, plan.failed, requested))
    return table(
        ("root", "instrument", *_COUNTS),
        (
            (
                count.root,
                count.instrument,
                count.on_disk,
                count.registered,
                count.changed,
                count.missing,
                *(number[count.root, count.instrument] for number in (flying, failed, wanted)),
            )
            for count in found.counts()
        ),
    )


def files_table(paths: Sequence[str]) -> dg.TableMetadataValue:
    """The paths of files."""
    return table(("file",), ((path,) for path in paths))


def _places_table(places: Sequence[LeftOut]) -> dg.TableMetadataValue:
    return table(("place", "why"), ((place.path, place.reason) for place in places))
