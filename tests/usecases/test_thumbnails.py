"""Each dataset has its picture once, whatever is repeated, crashes or is answered; a new one replaces it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.rebuild import build_again, extract_again
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, Store, create_app
from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.faults import FaultKind, Faults, Scripted
from scicat_dagster.errors import TransientError
from scicat_dagster.files.thumbnail_models import digest_in
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register
from scicat_dagster.usecases.reingest import Reingestion
from scicat_dagster.usecases.thumbnails import DatasetPreview, attach_preview, renew_preview

PID = "20.500.12269/one"
LONG_AGO = "2020-01-01T00:00:00.000Z"
FIELDS = {
    "pid": PID, "type": "raw", "datasetName": "one", "owner": "Ada", "contactEmail": "ada@example.com",
    "sourceFolder": "/", "creationTime": "2026-01-15T09:30:00.000Z", "principalInvestigator": "Ada",
    "creationLocation": "ESS:ODIN", "ownerGroup": "ingestor",
}  # fmt: skip


@dataclass
class Catalogue:
    """A running stand-in, a client of it, and one file with its schema."""

    folder: Path
    store: Store
    faults: Faults
    plan: Scripted
    client: ScicatClient
    settings: Settings

    @property
    def file(self) -> Path:
        return self.folder / "data" / "one.nxs"

    def write(self) -> None:
        with h5py.File(self.file, "w") as file:
            data = file.create_group("entry/data")
            file.attrs["default"], file["entry"].attrs["default"] = "entry", "data"
            data.attrs.update({"NX_class": "NXdata", "signal": "counts"})
            data["counts"] = np.arange(50.0) ** 2 + 1
        os.utime(self.file, (1_700_000_000, 1_700_000_000))

    def use_schema(self, **sections: Any) -> None:
        items = {
            name: {"field_type": "high_level", "machine_name": name, "value": value, "type": "string"}
            for name, value in FIELDS.items()
        }
        schema = {"id": "one", "name": "one", "order": 1, "selector": "*", "schema": items, **sections}
        (self.folder / "one.imsc.yml").write_text(yaml.safe_dump(schema))

    def register(self, attacher: ScicatClient | None = None) -> DatasetPreview:
        (metadata,) = extract_again(str(self.file), load_schemas(self.folder), self.client, self.settings)
        (built,) = build_again([metadata], self.settings)
        registration = register(built, self.client, self.settings.ingestion)
        return attach_preview(metadata, built, registration, attacher or self.client, self.settings)

    def reingestion(self) -> Reingestion:
        return Reingestion(self.settings, load_schemas(self.folder), self.client)

    def let_time_pass(self) -> None:
        self.faults.wait_until_all_are_carried_out()
        self.store.change_dataset(PID, lambda document: {**document, "createdAt": LONG_AGO})


@pytest.fixture(params=[(Dialect.V4X, "v3"), (Dialect.V5_2, "v3"), (Dialect.V5_NEXT, "v4")], ids=str)
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalogue]:
    dialect, api = request.param
    accounts = Accounts(demo_accounts())
    (tmp_path / "data").mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(Store(tmp_path / "catalogue.sqlite"))
        plan = Scripted()
        faults = stack.enter_context(Faults(create_app(store, accounts, dialect), plan, store))
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        scicat = {"host": server.root, "api": api, "username": "ingestor", "password": "pwd", "timeout": 1}
        handling = {"message_to_file": False, "save_file_hash": False}
        settings = Settings.model_validate({"scicat": scicat, "ingestion": {"file_handling": handling}})
        client = stack.enter_context(closing(ScicatClient(settings.scicat)))
        found = Catalogue(tmp_path, store, faults, plan, client, settings)
        found.write()
        found.use_schema()
        yield found


def test_the_picture_is_attached_once_however_often_the_file_is_registered(catalogue: Catalogue) -> None:
    states = [catalogue.register().state]
    catalogue.let_time_pass()
    states += [catalogue.register().state for _ in range(2)]

    assert states == ["attached", "was there", "was there"]
    (attachment,) = catalogue.store.attachments(PID)
    assert attachment["caption"].startswith("counts by dimension 0")
    assert (attachment["ownerGroup"], attachment["isPublished"]) == ("ingestor", False)


@pytest.mark.parametrize(
    "kind",
    [FaultKind.STORED_THEN_ERROR, FaultKind.STORED_THEN_TIMEOUT, FaultKind.INTERNAL_ERROR, FaultKind.RESET],
)
def test_a_picture_whose_answer_was_lost_is_looked_for_before_it_is_attached_again(
    catalogue: Catalogue, kind: FaultKind
) -> None:
    catalogue.plan.add((kind, "POST", ".*attachments"))

    try:
        first = catalogue.register().state
    except TransientError:
        first = None
    catalogue.let_time_pass()
    again = catalogue.register()

    was_stored = kind is not FaultKind.INTERNAL_ERROR
    assert first == ("was there" if kind is FaultKind.STORED_THEN_ERROR else None)
    assert again.state == ("was there" if was_stored else "attached")
    assert len(catalogue.store.attachments(PID)) == 1


def test_what_people_attached_is_left_alone_and_does_not_count(catalogue: Catalogue) -> None:
    catalogue.use_schema(preview=False)
    catalogue.register()
    theirs = {"thumbnail": "data:image/png;base64,AAAA", "caption": "the sample", "ownerGroup": "ingestor"}
    document = {"_id": "theirs", "datasetId": PID, "createdAt": LONG_AGO, "updatedAt": LONG_AGO, **theirs}
    catalogue.store.insert_attachment({**document, "accessGroups": [], "isPublished": False})
    catalogue.use_schema()
    catalogue.let_time_pass()

    assert catalogue.register().state == "attached"
    catalogue.use_schema(preview={"title": "New"})
    assert catalogue.reingestion().updated(str(catalogue.file))[0].state == "updated"
    captions = [found["caption"] for found in catalogue.store.attachments(PID)]
    assert sorted(caption[:10] for caption in captions) == ["New: count", "the sample"]


def test_a_refused_picture_is_told_and_the_dataset_stays(catalogue: Catalogue) -> None:
    plain = catalogue.settings.scicat.model_copy(update={"username": "plainuser"})
    with closing(ScicatClient(plain)) as nobody_special:
        found = catalogue.register(nobody_special)

    assert found.state == "refused"
    assert [notice.subject for notice in found.notices] == ["preview"]
    assert catalogue.store.dataset(PID) is not None


def test_a_schema_that_wants_none_gets_none(catalogue: Catalogue) -> None:
    catalogue.use_schema(preview=False)

    found = catalogue.register()

    assert (found.state, found.notices, catalogue.store.attachments(PID)) == ("none", (), [])


def test_a_preview_that_fails_is_a_notice(catalogue: Catalogue) -> None:
    catalogue.use_schema(preview={"path": "/entry/nowhere"})

    found = catalogue.register()

    assert found.state == "none"
    assert [notice.subject for notice in found.notices] == ["preview"]


def test_reingest_shows_that_the_picture_differs_and_replaces_it(catalogue: Catalogue) -> None:
    catalogue.register()
    (before,) = catalogue.store.attachments(PID)
    assert catalogue.reingestion().updated(str(catalogue.file))[0].state == "up to date"

    catalogue.use_schema(preview={"scale": "log", "title": "Counts of the run"})
    (compared,) = catalogue.reingestion().compared(str(catalogue.file))
    assert [change.field for change in compared.changes] == ["preview"]
    assert catalogue.store.attachments(PID) == [before]

    assert catalogue.reingestion().updated(str(catalogue.file))[0].state == "updated"
    (after,) = catalogue.store.attachments(PID)
    assert after["caption"].startswith("Counts of the run")
    assert digest_in(after["thumbnail"]) != digest_in(before["thumbnail"])
    assert catalogue.reingestion().updated(str(catalogue.file))[0].state == "up to date"


def test_reingest_attaches_a_picture_that_is_missing(catalogue: Catalogue) -> None:
    catalogue.use_schema(preview=False)
    catalogue.register()
    catalogue.use_schema()

    assert catalogue.reingestion().updated(str(catalogue.file))[0].state == "updated"
    assert len(catalogue.store.attachments(PID)) == 1


def test_a_picture_that_reingest_may_not_attach_is_a_warning(catalogue: Catalogue) -> None:
    catalogue.use_schema(preview=False)
    catalogue.register()
    catalogue.store.change_dataset(PID, lambda document: {**document, "accessGroups": ["plainuser"]})
    catalogue.use_schema()
    plain = catalogue.settings.scicat.model_copy(update={"username": "plainuser"})

    with closing(ScicatClient(plain)) as nobody_special:
        (metadata,) = extract_again(
            str(catalogue.file), load_schemas(catalogue.folder), nobody_special, catalogue.settings
        )
        (built,) = build_again([metadata], catalogue.settings)
        renewed = renew_preview(metadata, built, PID, nobody_special, catalogue.settings)

    assert renewed.changes == ()
    assert [notice.subject for notice in renewed.notices] == ["preview"]
