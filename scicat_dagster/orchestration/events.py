"""Reading the stored events of an asset from where one was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

_PAGE = 500


def events_after(
    key: dg.AssetKey, storage_id: int, since: float, fetch: Callable[..., Any]
) -> Iterator[dg.EventLogRecord]:
    """The events of an asset that ``fetch`` finds, stored after one of them and not before a time.

    In the order in which they were stored, so that whoever keeps the place of the last one goes on there.
    """
    while True:
        wanted = dg.AssetRecordsFilter(key, after_storage_id=storage_id, after_timestamp=since)
        records = fetch(wanted, limit=_PAGE, ascending=True).records
        yield from records
        if len(records) < _PAGE:
            return
        storage_id = records[-1].storage_id
