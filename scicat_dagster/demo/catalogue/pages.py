"""The web pages: the list of datasets and one page per dataset, at the paths of the real frontend.

Here belong: HTML, and choosing what of a document is shown. Every value passes through ``_safe`` on its way
into HTML; nothing is loaded from anywhere else.
"""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from scicat_dagster.demo.catalogue.content.answers import JsonObject
from scicat_dagster.demo.catalogue.store import Store
from scicat_dagster.wording import numbered

_PAGE_LENGTH = 25
_REFRESH_SECONDS = 5
_MOST_FILES = 1000
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_NAMED = {"pid", "name"}
"""The keys of a technique."""
_SHOWN_APART = frozenset({"scientificMetadata"})
_SHOWN_FIRST = (
    "pid",
    "type",
    "datasetName",
    "description",
    "owner",
    "principalInvestigator",
    "contactEmail",
    "proposalId",
    "instrumentId",
    "creationLocation",
    "sampleId",
    "runNumber",
    "startTime",
    "endTime",
    "creationTime",
    "sourceFolder",
    "size",
    "numberOfFiles",
    "ownerGroup",
    "accessGroups",
    "keywords",
    "techniques",
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #647183; --line: #dfe4ea; --back: #f6f8fa;
  --card: #fff; --accent: #0b6e99; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #98a4b3; --line: #333d49;
  --back: #14191f; --card: #1c232b; --accent: #5bb8de; --alarm: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
header { background: var(--card); border-bottom: 1px solid var(--line); padding: .8rem 2rem; display: flex;
  gap: 2rem; align-items: center; }
header a { color: var(--ink); font-weight: 650; text-decoration: none; font-size: 1.1rem; }
header span { color: var(--soft); }
main { max-width: 100rem; margin: 0 auto; padding: 1.5rem 2rem 4rem; }
h1 { font-size: 1.4rem; margin: .2rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
a { color: var(--accent); }
form { margin-left: auto; }
input { font: inherit; width: 20rem; max-width: 40vw; padding: .35rem .7rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--back); color: var(--ink); }
.table { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .45rem .9rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > td, tbody tr:last-child > th { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 550; font-size: .85rem; white-space: nowrap; }
tbody th { font-weight: 550; color: var(--soft); width: 16rem; }
td { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.when { white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: .88em ui-monospace, monospace; }
.soft { color: var(--soft); }
.alarm { color: var(--alarm); font-weight: 600; }
nav { display: flex; gap: 1rem; margin: 1rem 0; align-items: center; }
"""
_SCRIPT = """
setInterval(async () => {
  try {
    const text = await (await fetch(location.href)).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    if (fresh) document.querySelector("main").replaceWith(fresh);
  } catch (error) { /* The server is away; the next round tries again. */ }
}, SECONDS * 1000);
""".replace("SECONDS", str(_REFRESH_SECONDS))


class _Safe(str):
    """Text that is HTML already."""

    __slots__ = ()


def routes(store: Store) -> list[BaseRoute]:
    """The pages' routes.

    Args:
        store: The documents to show; nobody has to log in to see them here.
    """

    async def datasets(request: Request) -> Response:
        return await run_in_threadpool(_list_page, store, request)

    async def dataset(request: Request) -> Response:
        return await run_in_threadpool(_dataset_page, store, unquote(request.path_params["pid"]))

    return [
        Route("/", datasets, methods=["GET"]),
        Route("/datasets", datasets, methods=["GET"]),
        # A pid copied with its slash unencoded is found too.
        Route("/datasets/{pid:path}", dataset, methods=["GET"]),
    ]


def not_found(what: str = "There is no such page.") -> Response:
    """The page for a path that leads nowhere."""
    return _page("Not found", _html("<h1>Not found</h1><p>{}</p>", what), status=404)


def _list_page(store: Store, request: Request) -> Response:
    search = request.query_params.get("search", "")
    number = request.query_params.get("page", "1")
    page = max(int(number), 1) if number.isdecimal() and len(number) < 10 else 1
    found, total = store.page_of_datasets(search, _PAGE_LENGTH, (page - 1) * _PAGE_LENGTH)
    poisoned = store.poisoned()
    rows = [
        (
            _html(
                '<a href="{}"><code>{}</code></a>{}',
                _dataset_path(one["pid"]),
                one["pid"],
                _alarm(one, poisoned),
            ),
            one.get("datasetName"),
            _html("{}<br><span class=soft>{}</span>", one.get("instrumentId"), one.get("creationLocation")),
            one.get("proposalId"),
            _html("<span title='{} bytes'>{}</span>", one.get("size"), _size(one.get("size"))),
            one.get("numberOfFiles"),
            _when(one.get("createdAt")),
        )
        for one in found
    ]
    table = _table(
        ("PID", "Name", "Instrument", "Proposal", "Size", "Files", "Created"), rows, numbers=(4, 5)
    )
    last = max(-(-total // _PAGE_LENGTH), 1)
    links = [
        _html('<a href="/datasets?{}">{}</a>', urlencode({"search": search, "page": target}), text)
        for text, target in (("Newer", page - 1), ("Older", page + 1))
        if 1 <= target <= last
    ]
    about = _html("<span class=soft>{} datasets, page {} of {}</span>", total, page, last)
    return _page(
        "Datasets", _html("<h1>Datasets</h1>{}<nav>{}{}</nav>", table, about, _joined(links)), search
    )


def _dataset_page(store: Store, pid: str) -> Response:
    document = store.dataset(pid)
    if document is None:
        return not_found(f"There is no dataset {pid}.")
    blocks = store.origdatablocks(pid)
    files = [(block, file) for block in blocks for file in block["dataFileList"]]
    parts = [
        _html("<h1>{}</h1><p class=soft><code>{}</code></p>", document.get("datasetName"), pid),
        _alarm(document, store.poisoned()),
        _attachments(store.attachments(pid)),
        _html(
            "<h2>Dataset</h2>{}",
            _fields(document, [name for name in _SHOWN_FIRST if document.get(name) not in (None, [])]),
        ),
        _html("<h2>Scientific metadata</h2>{}", _metadata(document.get("scientificMetadata") or {})),
        _html(
            "<h2>Files: {} in {}</h2>{}", len(files), numbered(len(blocks), "origdatablock"), _files(files)
        ),
    ]
    if jobs := [job for job in store.jobs() if pid in json.dumps(job)]:
        parts.append(_html("<h2>Jobs</h2>{}", _jobs(jobs)))
    rest = [name for name in document if name not in _SHOWN_FIRST and name not in _SHOWN_APART]
    parts.append(_html("<h2>Further fields</h2>{}", _fields(document, rest)))
    return _page(str(document.get("datasetName")), _joined(parts))


def _attachments(attachments: Sequence[JsonObject]) -> _Safe | str:
    if not attachments:
        return ""
    rows = [(_picture(one), one.get("caption"), _when(one.get("updatedAt"))) for one in attachments]
    return _html("<h2>Attachments</h2>{}", _table(("Picture", "Caption", "Changed"), rows))


def _picture(attachment: JsonObject) -> _Safe | str:
    thumbnail = str(attachment.get("thumbnail", ""))
    # What is loaded from elsewhere would tell others who looks at this page.
    return _html("<img src='{}' alt=''>", thumbnail) if thumbnail.startswith("data:image/png;base64,") else ""


def _fields(document: JsonObject, names: Iterable[str]) -> _Safe:
    rows = [_html("<tr><th>{}</th><td>{}</td></tr>", name, _value(document[name])) for name in names]
    return _html("<div class=table><table><tbody>{}</tbody></table></div>", _joined(rows))


def _metadata(metadata: JsonObject) -> _Safe:
    rows = []
    for name, entry in metadata.items():
        if isinstance(entry, dict) and "value" in entry:
            human_name = entry.get("human_name")
            title = _html("{}<br><code class=soft>{}</code>", human_name, name) if human_name else name
            rows.append((title, _value(entry["value"]), entry.get("unit"), entry.get("type")))
        else:
            rows.append((name, _value(entry), "", ""))
    return _table(("Name", "Value", "Unit", "Type"), rows) if rows else _html("<p class=soft>None.</p>")


def _jobs(jobs: Iterable[JsonObject]) -> _Safe:
    rows = [
        (job.get("type"), job.get("statusCode"), _value(job.get("jobParams")), _when(job.get("createdAt")))
        for job in jobs
    ]
    return _table(("Type", "Status", "Parameters", "Created"), rows)


def _files(files: Sequence[tuple[JsonObject, JsonObject]]) -> _Safe:
    rows = [
        (
            _html("<code>{}</code>", file.get("path")),
            _html("<span title='{} bytes'>{}</span>", file.get("size"), _size(file.get("size"))),
            _when(file.get("time")),
            _html("<code>{}</code> <span class=soft>{}</span>", file.get("chk"), block.get("chkAlg")),
        )
        for block, file in files[:_MOST_FILES]
    ]
    if not rows:
        return _html("<p class=soft>None.</p>")
    more = len(files) - len(rows)
    rest = _html("<p class=soft>{} more are not shown.</p>", more) if more else ""
    return _html("{}{}", _table(("Path", "Size", "Time", "Checksum"), rows, numbers=(1,)), rest)


def _alarm(document: JsonObject, poisoned: dict[str, str]) -> _Safe | str:
    reason = poisoned.get(document["pid"])
    if reason is None:
        return ""
    return _html("<p class=alarm>A real SciCat would have crashed at this dataset: {}.</p>", reason)


def _page(title: str, content: _Safe, search: str = "", status: int = 200) -> Response:
    html = _html(
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>{} – SciCat stand-in</title>"
        "<meta name=viewport content='width=device-width'><style>{}</style></head><body>"
        "<header><a href='/datasets'>SciCat stand-in</a><span>Demo catalogue</span>"
        "<form action='/datasets'><input type=search name=search placeholder='Search datasets' value=\"{}\">"
        "</form></header><main>{}</main><script>{}</script></body></html>",
        title,
        _Safe(_STYLE),
        search,
        content,
        _Safe(_SCRIPT),
    )
    return HTMLResponse(html, status_code=status)


def _table(heads: Iterable[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> _Safe:
    def cell(position: int, value: Any, element: str) -> _Safe:
        kind = _Safe(" class=number") if position in numbers else ""
        return _html("<{}{}>{}</{}>", _Safe(element), kind, value, _Safe(element))

    head = _joined(cell(position, text, "th") for position, text in enumerate(heads))
    body = _joined(
        _html("<tr>{}</tr>", _joined(cell(position, value, "td") for position, value in enumerate(row)))
        for row in rows
    )
    return _html(
        "<div class=table><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>", head, body
    )


def _html(template: str, *values: object) -> _Safe:
    return _Safe(template.format(*(_safe(value) for value in values)))


def _safe(value: object) -> str:
    if isinstance(value, _Safe):
        return value
    return "" if value is None else escape(str(value), quote=True)


def _joined(parts: Iterable[str]) -> _Safe:
    return _Safe("".join(_safe(part) for part in parts))


def _value(value: Any) -> _Safe | str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() - {"_id"} == _NAMED for item in value
    ):
        return ", ".join(f"{item['name']} ({item['pid']})" for item in value)
    return _html("<code>{}</code>", json.dumps(value, ensure_ascii=False))


def _size(size: Any) -> str:
    if not isinstance(size, int | float):
        return ""
    amount = float(size)
    for unit in _SIZE_UNITS:
        if abs(amount) < 1000 or unit == _SIZE_UNITS[-1]:
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == _SIZE_UNITS[0] else f"{amount:.1f} {unit}"


def _when(instant: Any) -> _Safe | str:
    if not isinstance(instant, str):
        return ""
    return _html("<span class=when>{}</span>", instant.replace("T", " ").replace(".000Z", "Z"))


def _dataset_path(pid: str) -> str:
    return f"/datasets/{quote(pid, safe='')}"
