"""Only what a corrected schema changes is changed, whoever else edits the dataset, and whatever fails.

Against the stand-in over HTTP. Which files are looked at is ``test_reingest``'s; what the requests of a
client mean is ``test_client``'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from scicat_dagster.config.models import ScicatSettings
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.schemas.models import Schema
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.correction import Change, apply, check_also, compare
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import DatasetRecord, OrigDatablockRecord, RegisteredDataset

PASSWORD = "pwd"
PID = "20.500.12269/one"
PATCH = "PATCH"
PATIENT = 20.0

MEMBER = Account(
    "ingestor", PASSWORD, ("ess_proposal_443503",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip
STRANGER = Account("stranger", PASSWORD, ("other",), may_create_datasets=True, may_read_all=True)

BODY: dict[str, Any] = {
    "pid": PID,
    "type": "raw",
    "datasetName": "Run 12",
    "owner": "Ada Lovelace",
    "contactEmail": "ada@example.com",
    "sourceFolder": "/data/443503",
    "creationTime": "2026-01-15T09:30:00.000Z",
    "principalInvestigator": "Ada Lovelace",
    "creationLocation": "ESS:CODA",
    "ownerGroup": "ess_proposal_443503",
    "accessGroups": [],
    "isPublished": False,
    "size": 1004,
    "numberOfFiles": 2,
}


def entry(value: Any, unit: str = "", name: str = "Name", kind: str = "string") -> dict[str, Any]:
    return {"value": value, "unit": unit, "human_name": name, "type": kind}


def built(metadata: dict[str, Any] | None = None, **changes: Any) -> BuiltDataset:
    dataset = {**BODY, **changes, "scientificMetadata": {"run": entry(12)} if metadata is None else metadata}
    return BuiltDataset(dataset=dataset, origdatablock={}, data_file="/data/443503/raw/one.nxs")


def schema(*entries: str, variables: dict[str, Any] | None = None, **fields: str) -> Schema:
    """A schema that assigns these entries and fields; what it gives them is said by ``built``."""
    assignments: dict[str, Any] = {
        name: {"field_type": "high_level", "machine_name": name, "value": value, "type": "string"}
        for name, value in {"owner": "Ada Lovelace", **fields}.items()
    }
    for name in entries:
        assignments[f"entry {name}"] = {
            "field_type": "scientific_metadata", "machine_name": name, "value": "x", "type": "string",
        }  # fmt: skip
    document = {"id": "1", "name": "One", "order": 1, "selector": "*", "schema": assignments}
    return Schema.model_validate({**document, "variables": variables or {}})


SCHEMA = schema("run")


@dataclass
class Meddling:
    """Somebody who changes a dataset between our reading it and our changing it."""

    app: ASGIApp
    plans: list[Callable[[], object]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == PATCH and self.plans:
            await run_in_threadpool(self.plans.pop(0))
        await self.app(scope, receive, send)


class Counting:
    """A script of faults that counts the changes."""

    def __init__(self) -> None:
        self.script = Scripted()
        self.patches = 0

    def fault(self, call: Any) -> FaultKind | None:
        self.patches += call.method == PATCH
        return self.script.fault(call)


@dataclass
class Catalogue:
    """A running stand-in with one dataset."""

    server: CatalogueServer
    store: Store
    plan: Counting
    meddling: Meddling
    api: str
    stack: ExitStack

    def client(self, username: str = "ingestor", timeout: float = PATIENT) -> ScicatClient:
        login = {"username": username, "password": PASSWORD}
        given = {"host": self.server.api_root, "api": self.api, "timeout": timeout, **login}
        client = ScicatClient(ScicatSettings.model_validate(given))
        self.stack.callback(client.close)
        return client

    def hold(self, dataset: BuiltDataset) -> None:
        """Hold this dataset and no other."""
        self.store.clear()
        self.client().create_dataset(dataset.dataset)
        self.plan.patches = 0

    def edit(self, **changes: Any) -> None:
        """What people do in SciCat; metadata is added to the one that there is."""

        def edited(document: dict[str, Any]) -> dict[str, Any]:
            metadata = {**document["scientificMetadata"], **changes.get("scientificMetadata", {})}
            client_side = {**document, **changes, "scientificMetadata": metadata}
            return {**client_side, "updatedBy": "somebody", "updatedAt": later(document["updatedAt"])}

        self.store.change_dataset(PID, edited)

    @property
    def document(self) -> dict[str, Any]:
        found = self.store.dataset(PID)
        assert found is not None
        return found


def later(updated_at: str) -> str:
    return f"{int(updated_at[:4]) + 1}{updated_at[4:]}"


@pytest.fixture(scope="module", params=[(Dialect.V4X, "v3"), (Dialect.V5_2, "v4")], ids=str)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    accounts = Accounts((MEMBER, STRANGER))
    plan = Counting()
    with Store(tmp_path_factory.mktemp("catalogue") / "catalogue.sqlite") as store:
        dialect, api = request.param
        meddling = Meddling(create_app(store, accounts, dialect))
        faults = Faults(meddling, plan, store, slow_seconds=0.01)
        with CatalogueServer(store, accounts, app=faults) as server, faults, ExitStack() as stack:
            yield Catalogue(server, store, plan, meddling, api, stack)


@pytest.fixture
def catalogue(running: Catalogue) -> Catalogue:
    running.plan.script = Scripted()
    running.meddling.plans.clear()
    running.hold(built())
    return running


def found(changes: tuple[Change, ...]) -> dict[str, tuple[Any, Any, str]]:
    return {change.field: (change.in_catalogue, change.from_file, change.kind) for change in changes}


# What differs


def test_a_dataset_as_it_was_registered_does_not_differ(catalogue: Catalogue) -> None:
    same = built(
        {"run": entry(12), "length": entry(25.5, "mm"), "big": entry(2**53 + 1), "x.y": entry([1, 2.0])},
        creationTime="2026-01-15T10:30:00.123456+01:00",
        startTime="2026-01-15T09:00:00",
        sourceFolder="/data/443503/",
        techniques=[{"pid": "http://purl.org/pan-science/PaNET/PaNET01100", "name": "powder diffraction"}],
        runNumber="12",
    )
    catalogue.hold(same)
    record = catalogue.client().dataset(PID)
    assert record is not None
    assert "valueSI" in record.scientificMetadata["length"]
    assert "_id" in catalogue.document["techniques"][0]

    registered = RegisteredDataset(record, catalogue.client().origdatablocks(PID))
    assert compare(same, schema("run", "length", "big", "x.y"), registered).changes == ()


def record(*blocks: OrigDatablockRecord, **changes: Any) -> RegisteredDataset:
    """What the catalogue has."""
    body = {**BODY, "scientificMetadata": {"run": entry(12)}, **changes}
    return RegisteredDataset(DatasetRecord.model_validate(body), blocks)


def test_a_field_and_an_entry_that_differ_are_changes() -> None:
    new = built({"run": entry(13), "new": entry(1)}, creationLocation="ESS:ODIN", runNumber="13")

    differing = compare(new, schema("run", "new"), record()).changes

    assert found(differing) == {
        "creationLocation": ("ESS:CODA", "ESS:ODIN", "change"),
        "runNumber": (None, "13", "change"),
        "scientificMetadata.run": ({"value": 12}, {"value": 13}, "change"),
        "scientificMetadata.new": (None, entry(1), "change"),
    }


@pytest.mark.parametrize(("ours", "theirs"), [(1, True), (0, False), ("1", 1), (None, 0), ([1], 1), ({}, [])])
def test_values_of_different_kinds_differ(ours: Any, theirs: Any) -> None:
    correction = compare(
        built({"run": entry(ours)}), SCHEMA, record(scientificMetadata={"run": entry(theirs)})
    )

    assert [change.field for change in correction.wanted] == ["scientificMetadata.run"]


@pytest.mark.parametrize("name", ["datasetName", "description", "keywords", "ownerGroup", "accessGroups"])
def test_what_people_edit_and_who_may_see_it_is_left_alone_but_shown(name: str) -> None:
    value: Any = ["new"] if name in {"keywords", "accessGroups"} else "new"
    old: Any = ["old"] if name in {"keywords", "accessGroups"} else "old"
    new, theirs = built(**{name: value}), record(**{name: old})

    (change,) = compare(new, SCHEMA, theirs).changes
    assert (change.field, change.kind) == (name, "left alone")
    assert change.reason
    assert compare(new, SCHEMA, theirs, also=[name]).wanted[0].from_file == value


def test_what_is_not_there_was_not_edited() -> None:
    assert [c.field for c in compare(built(description="new"), SCHEMA, record()).wanted] == ["description"]


@pytest.mark.parametrize("name", ["pid", "sourceFolder"])
def test_what_cannot_be_changed_is_shown_even_if_somebody_insists(name: str) -> None:
    correction = compare(built(), SCHEMA, record(**{name: "/elsewhere"}), also=[name])

    (change,) = correction.changes
    assert change.kind == "cannot be changed"
    assert change.reason


def test_what_the_catalogue_keeps_itself_does_not_differ() -> None:
    theirs = record(size=5, numberOfFiles=1, packedSize=3, isPublished=True)

    assert compare(built(), SCHEMA, theirs).changes == ()


def block(*sizes: int) -> OrigDatablockRecord:
    files = [{"path": f"{number}.nxs", "size": size} for number, size in enumerate(sizes)]
    body = {"_id": str(sizes), "datasetId": PID, "size": sum(sizes), "dataFileList": files}
    return OrigDatablockRecord.model_validate(body)


def test_sums_that_are_not_those_of_the_blocks_are_corrected() -> None:
    """As SciCat after 5.2.1 makes them of what scicat-ingestor posts."""
    doubled = record(block(1000, 4), block(6), size=2020, numberOfFiles=6)

    correction = compare(built(), SCHEMA, doubled)

    assert found(correction.wanted) == {
        "size": (2020, 1010, "change"),
        "numberOfFiles": (6, 3, "change"),
    }
    right = record(block(1000, 4), block(6), size=1010, numberOfFiles=3)
    assert compare(built(), SCHEMA, right).changes == ()


def test_a_value_that_comes_from_the_time_or_the_run_is_left_alone() -> None:
    made_by = schema(
        "run",
        variables={
            "day": {"source": "VALUE", "value": "<now>", "value_type": "date"},
            "answer": {"source": "SC", "url": "x/<ingestor_run_id>", "value_type": "string"},
            "still": {"source": "VALUE", "value": "nothing like <data_file_name>", "value_type": "string"},
        },
        creationTime="<day>",
        creationLocation="<answer>",
        principalInvestigator="<still>",
    )
    new = built(
        creationTime="2026-02-01T00:00:00Z", creationLocation="elsewhere", principalInvestigator="somebody"
    )

    differing = found(compare(new, made_by, record()).changes)

    assert {name: kind for name, (_, _, kind) in differing.items()} == {
        "creationTime": "left alone",
        "creationLocation": "left alone",
        "principalInvestigator": "change",
    }


def test_a_variable_that_takes_the_place_of_the_time_is_compared_as_any_other() -> None:
    own = schema(
        "run",
        variables={"now": {"source": "VALUE", "value": "2026-02-01", "value_type": "date"}},
        creationTime="<now>",
    )

    (change,) = compare(built(creationTime="2026-02-01T00:00:00Z"), own, record()).changes

    assert (change.field, change.kind) == ("creationTime", "change")


def test_a_field_of_the_next_api_is_the_one_that_it_fills_here() -> None:
    made_by = schema("run", principalInvestigators="<ingestor_run_id>")

    (change,) = compare(built(principalInvestigator="somebody"), made_by, record()).changes

    assert (change.field, change.kind) == ("principalInvestigator", "left alone")


def test_an_entry_of_the_catalogue_only_is_named_with_the_reason() -> None:
    theirs = record(scientificMetadata={"run": entry(12), "theirs": entry(1), "failed": entry(2)})

    correction = compare(built(), schema("run", "failed"), theirs)

    assert correction.wanted == ()
    assert {change.field: change.reason for change in correction.changes} == {
        "scientificMetadata.theirs": "The schema does not define it.",
        "scientificMetadata.failed": "It could not be built now.",
    }


def test_an_entry_that_the_schema_no_longer_defines_is_removed_if_somebody_asks_for_it() -> None:
    theirs = record(scientificMetadata={"run": entry(12), "old": entry(1), "failed": entry(2)})
    also = ["scientificMetadata.old", "scientificMetadata.failed"]

    (change,) = compare(built(), schema("run", "failed"), theirs, also).wanted

    assert (change.field, change.from_file) == ("scientificMetadata.old", None)


@pytest.mark.parametrize("name", ["pid", "size", "isPublished", "colour"])
def test_a_field_that_cannot_be_brought_up_to_date_is_refused(name: str) -> None:
    with pytest.raises(PermanentError, match=name):
        check_also([name])


def test_a_field_that_is_left_alone_can_be_asked_for() -> None:
    check_also(["keywords", "creationTime", "scientificMetadata.day"])


# Changing


def test_only_what_differs_is_changed(catalogue: Catalogue) -> None:
    catalogue.edit(keywords=["mine"], comment="mine", scientificMetadata={"theirs": entry(3, "mm")})
    before = catalogue.document
    new = built({"run": {**entry(13), "unit": "mm"}}, creationLocation="ESS:ODIN", keywords=["schema's"])

    correction = apply(new, SCHEMA, PID, catalogue.client())

    assert {change.field for change in correction.wanted} == {"creationLocation", "scientificMetadata.run"}
    after = catalogue.document
    assert after["creationLocation"] == "ESS:ODIN"
    assert after["scientificMetadata"]["run"]["value"] == 13
    assert after["scientificMetadata"]["run"]["unitSI"] == "m"
    assert after["scientificMetadata"]["theirs"]["value"] == 3
    untouched = set(before) - {"creationLocation", "scientificMetadata", "updatedAt", "updatedBy"}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}


@pytest.mark.parametrize("old", ["old", "old name. of it"])
def test_an_entry_is_renamed_and_nothing_else_is_touched(catalogue: Catalogue, old: str) -> None:
    catalogue.edit(scientificMetadata={old: entry(12, "mm"), "theirs": entry(3, "mm")})
    new, renamed = built({"run": entry(12), "new": entry(12)}), schema("run", "new")
    client, also = catalogue.client(), [f"scientificMetadata.{old}"]

    correction = apply(new, renamed, PID, client, also)
    patches = catalogue.plan.patches
    again = apply(new, renamed, PID, client, also)

    assert {change.field for change in correction.wanted} == {"scientificMetadata.new", *also}
    assert catalogue.document["scientificMetadata"].keys() == {"run", "new", "theirs"}
    assert (again.wanted, catalogue.plan.patches) == ((), patches)


def test_applying_again_asks_for_no_change(catalogue: Catalogue) -> None:
    new = built({"run": entry(13)})
    apply(new, SCHEMA, PID, catalogue.client())
    before = catalogue.document

    assert apply(new, SCHEMA, PID, catalogue.client()).wanted == ()

    assert catalogue.document == before
    assert catalogue.plan.patches == 1


def test_what_others_added_to_an_entry_of_ours_stays(catalogue: Catalogue) -> None:
    catalogue.edit(scientificMetadata={"run": {**entry(12), "ontology": "http://example.org/run"}})

    apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client())

    assert catalogue.document["scientificMetadata"]["run"] == {
        **entry(13),
        "ontology": "http://example.org/run",
    }


def test_si_values_of_the_old_value_do_not_stay(catalogue: Catalogue) -> None:
    catalogue.hold(built({"run": entry(12, "mm")}))

    apply(built({"run": entry(12)}), SCHEMA, PID, catalogue.client())

    assert catalogue.document["scientificMetadata"]["run"] == entry(12)


def test_a_change_by_somebody_else_at_the_same_time_is_not_lost(catalogue: Catalogue) -> None:
    catalogue.meddling.plans.append(
        lambda: catalogue.edit(scientificMetadata={"theirs": entry(1)}, keywords=["theirs"])
    )

    apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client())

    after = catalogue.document
    assert after["scientificMetadata"]["run"]["value"] == 13
    assert after["scientificMetadata"]["theirs"]["value"] == 1
    assert after["keywords"] == ["theirs"]
    assert catalogue.plan.patches == 2


def test_who_is_never_fast_enough_comes_back_later(catalogue: Catalogue) -> None:
    catalogue.meddling.plans += [lambda: catalogue.edit(comment="again")] * 10

    with pytest.raises(TransientError, match="somebody else"):
        apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client())

    assert catalogue.document["scientificMetadata"]["run"]["value"] == 12


@pytest.mark.parametrize(
    "kind", [FaultKind.RESET, FaultKind.STORED_THEN_ERROR, FaultKind.STORED_THEN_TIMEOUT], ids=str
)
def test_a_change_whose_answer_was_lost_is_looked_for(catalogue: Catalogue, kind: FaultKind) -> None:
    catalogue.plan.script = Scripted((kind, PATCH, "datasets/.+"))
    timeout = 0.3 if kind is FaultKind.STORED_THEN_TIMEOUT else PATIENT

    correction = apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client(timeout=timeout))

    assert [change.field for change in correction.wanted] == ["scientificMetadata.run"]
    assert catalogue.document["scientificMetadata"]["run"]["value"] == 13
    assert catalogue.plan.patches == 1


@pytest.mark.parametrize(
    "kind",
    [FaultKind.INTERNAL_ERROR, FaultKind.BAD_GATEWAY, FaultKind.UNAVAILABLE, FaultKind.DATABASE_DOWN],
    ids=str,
)
def test_a_change_that_was_not_made_is_made_by_calling_again(catalogue: Catalogue, kind: FaultKind) -> None:
    catalogue.plan.script = Scripted((kind, PATCH, "datasets/.+"))
    client = catalogue.client()
    with pytest.raises(TransientError):
        apply(built({"run": entry(13)}), SCHEMA, PID, client)
    catalogue.plan.script = Scripted()

    apply(built({"run": entry(13)}), SCHEMA, PID, client)

    assert catalogue.document["scientificMetadata"]["run"]["value"] == 13


def test_who_is_no_member_of_the_owner_group_is_told_so(catalogue: Catalogue) -> None:
    with pytest.raises(RefusedError, match="owner group") as refused:
        apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client("stranger"))

    assert "Unauthorized" in refused.value.what


def test_a_value_that_the_server_does_not_keep_is_a_permanent_failure(catalogue: Catalogue) -> None:
    """It stores null for an end that it cannot read, and says that all is well."""
    with pytest.raises(PermanentError, match="keeps other values of endTime"):
        apply(built(endTime="yesterday"), SCHEMA, PID, catalogue.client())


def test_metadata_that_the_server_dies_of_is_never_sent_back(catalogue: Catalogue) -> None:
    catalogue.edit(scientificMetadata={"deadly": None})

    with pytest.raises(PermanentError, match="'deadly'"):
        apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client())

    assert catalogue.plan.patches == 0


def test_metadata_that_grew_too_large_is_not_sent(catalogue: Catalogue) -> None:
    catalogue.edit(scientificMetadata={"theirs": entry("x" * 17 * 1024 * 1024)})

    with pytest.raises(PermanentError, match="more than SciCat accepts"):
        apply(built({"run": entry(13)}), SCHEMA, PID, catalogue.client())


def test_a_dataset_that_has_gone_is_transient(catalogue: Catalogue) -> None:
    catalogue.store.clear()

    with pytest.raises(TransientError, match="now there is none"):
        apply(built(), SCHEMA, PID, catalogue.client())


# Whatever anybody put there

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00$"), min_size=1, max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.builds(entry, VALUES, st.sampled_from(["", "mm", "K", "furlongzz"]), st.text(max_size=4))
THEIRS = ENTRIES | st.builds(lambda value: {"inner": {"value": value, "unit": "mm"}}, LEAVES)


@given(ours=st.dictionaries(NAMES, ENTRIES, max_size=4), theirs=st.dictionaries(NAMES, THEIRS, max_size=4))
@settings(max_examples=40, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_nobodys_metadata_is_lost_and_the_second_time_nothing_changes(
    catalogue: Catalogue, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    catalogue.hold(built(theirs))
    before = catalogue.document["scientificMetadata"]
    new, by = built(ours), schema(*ours)
    client = catalogue.client()

    apply(new, by, PID, client)

    after = catalogue.document
    for key, known in before.items():
        if key not in ours:
            assert json.dumps(after["scientificMetadata"][key]) == json.dumps(known)
    assert set(after["scientificMetadata"]) == set(ours) | set(theirs)
    for key, wanted in ours.items():
        assert {name: after["scientificMetadata"][key][name] for name in wanted} == wanted
    assert apply(new, by, PID, client).wanted == ()
    assert catalogue.document == after
