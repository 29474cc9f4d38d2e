"""What the UI shows of a comparison of disk and catalogue: counts and tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from scicat_dagster.orchestration.past_files.plan import Plan
from scicat_dagster.usecases.discover import Discovery
from scicat_dagster.usecases.walk import LeftOut

_MOST_ROWS = 500


def found_metadata(found: Discovery) -> dict[str, Any]:
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
    if found.unreadable:
        shown["what could not be read"] = _places_table(found.unreadable)
    if found.refused:
        shown["what was left out"] = _places_table(found.refused)
    return shown


def sweep_table(found: Discovery, plan: Plan, requested: Sequence[str]) -> dg.TableMetadataValue:
    instruments = {file.path: (file.root, file.instrument) for file in found.files}

    def per_instrument(paths: Iterable[str]) -> Counter[tuple[str, str]]:
        return Counter(instruments[path] for path in paths)

    flying, failed, wanted = map(per_instrument, (plan.in_flight, plan.failed, requested))
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "root": count.root,
                    "instrument": count.instrument,
                    "on disk": count.on_disk,
                    "registered": count.registered,
                    "changed": count.changed,
                    "missing": count.missing,
                    "in flight": flying[count.root, count.instrument],
                    "failed": failed[count.root, count.instrument],
                    "requested": wanted[count.root, count.instrument],
                }
            )
            for count in found.counts()[:_MOST_ROWS]
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("root", "string"),
                dg.TableColumn("instrument", "string"),
                *(
                    dg.TableColumn(name, "int")
                    for name in (
                        "on disk", "registered", "changed", "missing", "in flight", "failed", "requested",
                    )
                ),
            ]
        ),
    )  # fmt: skip


def files_table(paths: Sequence[str]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"file": path}) for path in paths[:_MOST_ROWS]],
        schema=dg.TableSchema([dg.TableColumn("file", "string")]),
    )


def _places_table(places: Sequence[LeftOut]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"place": place.path, "why": place.reason}) for place in places[:_MOST_ROWS]],
        schema=dg.TableSchema([dg.TableColumn("place", "string"), dg.TableColumn("why", "string")]),
    )
