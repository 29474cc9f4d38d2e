"""Which version of the API each collection is asked by, and what each version makes of the one model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.config.models import ScicatSettings, Settings
from scicat_dagster.demo.catalogue import Accounts, CatalogueServer, Dialect, Store, create_app, demo_accounts
from scicat_dagster.diagnostics.report import Report
from scicat_dagster.diagnostics.servers import check_scicat
from scicat_dagster.errors import TransientError
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import COLLECTIONS, ScicatClient
from scicat_dagster.scicat.dialects import JSON, MERGE_PATCH, V3, V4
from scicat_dagster.scicat.models import DatasetRecord


class Gated:
    """A server whose API v4 answers with this status; 200 lets requests through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.status = 200
        self.asked: list[str] = []
        self.missing: tuple[str, ...] = ()
        """The collections of API v4 that it does not have."""

    @property
    def _absent(self) -> tuple[str, ...]:
        return tuple(f"/api/v4/{name}" for name in self.missing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/api/v4/"):
            self.asked.append(scope["path"])
            status = 404 if scope["path"].startswith(self._absent) else self.status
            if status != 200:
                await Response("{}", status, media_type=JSON)(scope, receive, send)
                return
        await self._app(scope, receive, send)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[tuple[Gated, str]]:
    accounts = Accounts(demo_accounts())
    with Store(tmp_path / "catalogue.sqlite") as store:
        gated = Gated(create_app(store, accounts, Dialect.V5_2))
        with CatalogueServer(store, accounts, app=gated) as server:
            yield gated, server.root


def client_for(root: str, suffix: str = "", **changes: Any) -> ScicatClient:
    given = {"host": f"{root}{suffix}", "username": "ingestor", "password": "pwd", **changes}
    return ScicatClient(ScicatSettings.model_validate(given))


UPSTREAM = {"proposals": "v3/proposals", "origdatablocks": "v4/origdatablocks", "jobs": "v4/jobs"}


@pytest.mark.parametrize(
    ("suffix", "changes", "versions"),
    [
        ("/v3", {}, (3, 3, 3, 3)),
        ("/v4", {}, (4, 4, 4, 4)),
        ("", {}, (4, 4, 4, 4)),
        ("", {"api": "v3"}, (3, 3, 3, 3)),
        ("/v3", {"api": "v4"}, (4, 4, 4, 4)),
        ("/v3", {"api_endpoints": UPSTREAM}, (3, 4, 3, 4)),
        ("", {"api_endpoints": UPSTREAM}, (4, 4, 4, 4)),
        ("", {"api_endpoints": {"datasets": "v3/datasets"}}, (3, 4, 4, 4)),
    ],
)
def test_the_version_is_what_the_configuration_names_or_the_server_has(
    gate: tuple[Gated, str], suffix: str, changes: dict[str, Any], versions: tuple[int, ...]
) -> None:
    with closing(client_for(gate[1], suffix, **changes)) as client:
        assert tuple(client.route(name).dialect.version for name in COLLECTIONS) == versions
        assert client.whoami() == "ingestor"


def test_a_server_that_is_not_asked_is_not_asked(gate: tuple[Gated, str]) -> None:
    gated, root = gate
    with closing(client_for(root, "/v3")) as client:
        client.dataset("nope")

    assert gated.asked == []


def test_without_a_version_a_server_that_has_only_one_is_asked_by_that(gate: tuple[Gated, str]) -> None:
    gated, root = gate
    gated.status = 404
    with closing(client_for(root)) as client:
        assert {client.route(name).dialect.version for name in COLLECTIONS} == {3}
        assert client.dataset("nope") is None
        assert str(client.generation) == "before 4.20, or one without API v4"


@pytest.mark.parametrize("missing", ["origdatablocks", "jobs"])
def test_a_server_that_has_v4_of_some_collections_only_is_asked_by_v3(
    gate: tuple[Gated, str], missing: str
) -> None:
    gated, root = gate
    # As from 4.12 to 4.19: datasets came first, and origdatablocks last.
    gated.missing = ("origdatablocks", missing)
    with closing(client_for(root)) as client:
        assert {client.route(name).dialect.version for name in COLLECTIONS} == {3}


def test_a_name_is_given_where_the_server_might_not(gate: tuple[Gated, str]) -> None:
    with closing(client_for(gate[1], "/v3")) as client:
        assert client.as_posted({"type": "raw", "sourceFolder": "/data/odin/443503"})["datasetName"] == (
            "odin/443503"
        )
        assert client.as_posted({"type": "raw", "sourceFolder": "/"})["datasetName"] == "/"


def test_a_server_that_cannot_say_now_is_not_taken_for_one_without(gate: tuple[Gated, str]) -> None:
    gated, root = gate
    gated.status = 503
    with closing(client_for(root)) as client:
        with pytest.raises(TransientError):
            client.route("datasets")
        gated.status = 200
        assert client.route("datasets").dialect.version == 4


@pytest.mark.parametrize(
    ("api", "status", "result"), [("v4", 200, "ok"), ("v4", 404, "mistake"), ("v3", 404, "ok")]
)
def test_validate_says_which_api_is_used_and_whether_the_server_has_it(
    gate: tuple[Gated, str], tmp_path: Path, api: str, status: int, result: str
) -> None:
    gated, root = gate
    gated.status = status
    login = {"host": root, "api": api, "username": "ingestor", "password": "pwd"}
    settings = Settings.model_validate({"scicat": login})
    folder = tmp_path / "schemas"
    folder.mkdir()
    report = Report(config="")
    with closing(ScicatClient(settings.scicat)) as client:
        check_scicat(settings, load_schemas(folder), client, report)

    (row,) = [row for row in report.checks if f"datasets by {api}" in row.what]
    assert row.result == result


METADATA = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.fixed_dictionaries(
        {
            "value": st.integers()
            | st.text(max_size=3)
            | st.dictionaries(st.text("xy", min_size=1), st.integers())
        },
        optional={"unit": st.just("mm"), "valueSI": st.just(1)},
    ),
    max_size=4,
)


def merged(document: Any, patch: Any) -> Any:
    """RFC 7396, appendix."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(METADATA, METADATA)
def test_a_merge_patch_leads_from_any_metadata_to_any_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    record = DatasetRecord(pid="x", scientificMetadata=old, size=3, numberOfFiles=1)

    change = V4().change({"scientificMetadata": new}, record)

    assert change.content_type == MERGE_PATCH
    assert merged(old, change.body.get("scientificMetadata")) == new
    assert (change.body["size"], change.body["numberOfFiles"]) == (3, 1)


@given(
    st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.text(min_size=1, max_size=3), max_size=3),
)
def test_what_v4_is_sent_is_read_back_as_it_was(proposals: list[str], investigators: list[str]) -> None:
    dataset: dict[str, Any] = {"pid": "x", "sourceFolder": "/a/b", "proposalId": proposals[0]}
    if len(proposals) > 1:
        dataset["proposalIds"] = proposals
    if investigators:
        dataset |= {
            "principalInvestigator": ", ".join(investigators),
            "principalInvestigators": investigators,
        }

    read = V4().read_dataset(V4().new_dataset(dataset))

    assert isinstance(read, dict)
    assert {name: read[name] for name in dataset} == dataset
    sent = V3().new_dataset(dataset)
    assert not sent.keys() & {"proposalIds", "principalInvestigators"}
    assert sent["proposalId"] == proposals[0]
