"""What is kept of the catalogue's answers, for how long, and what never is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scicat_dagster.config.models import ScicatSettings
from scicat_dagster.demo.catalogue import CatalogueServer
from scicat_dagster.errors import TransientError
from scicat_dagster.scicat.cache import KEPT_SECONDS, CachedAnswers, KeptAnswers
from scicat_dagster.scicat.client import ScicatClient


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CatalogueServer]:
    with CatalogueServer(tmp_path / "catalogue.sqlite") as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(server: CatalogueServer, clock: Clock) -> Iterator[KeptAnswers]:
    settings = ScicatSettings.model_validate(
        {"host": server.api_root, "username": "ingestor", "password": "pwd"}
    )
    client = ScicatClient(settings)
    yield KeptAnswers(client, settings.api_endpoints, clock)
    client.close()


@pytest.fixture(autouse=True)
def proposal(server: CatalogueServer) -> None:
    server.store.add_proposal(
        "1234", title="T", pi_firstname="Ada", pi_lastname="Lovelace", pi_email="a@example.org",
        owner_group="ingestor",
    )  # fmt: skip


def test_a_proposal_is_kept_for_a_minute(server: CatalogueServer, answers: KeptAnswers, clock: Clock) -> None:
    answer = answers.fetch("proposals/1234")
    server.stop()

    clock.now += KEPT_SECONDS - 1
    assert answers.fetch("proposals/1234") == answer
    clock.now += 1
    with pytest.raises(TransientError):
        answers.fetch("proposals/1234")


def test_what_is_not_there_is_asked_for_again(server: CatalogueServer, answers: KeptAnswers) -> None:
    query = 'instruments?filter={"where":{"name":"ODIN"}}'
    assert answers.fetch(query) == []
    with pytest.raises(LookupError):
        answers.fetch("proposals/1235")

    server.store.add_instrument("ODIN")
    server.store.add_proposal(
        "1235", title="T", pi_firstname="Ada", pi_lastname="Byron", pi_email="a@example.org",
        owner_group="ingestor",
    )  # fmt: skip

    found = answers.fetch(query)
    assert isinstance(found, list)
    assert len(found) == 1
    assert answers.fetch("proposals/1235") is not None


def test_neither_datasets_nor_samples_are_kept(server: CatalogueServer, answers: KeptAnswers) -> None:
    answers.fetch("datasets")
    answers.samples_of_proposal("1234")
    server.stop()

    with pytest.raises(TransientError):
        answers.fetch("datasets")
    with pytest.raises(TransientError):
        answers.samples_of_proposal("1234")


def test_within_a_run_everything_is_asked_for_once(server: CatalogueServer, answers: KeptAnswers) -> None:
    run = CachedAnswers(answers)
    found = run.fetch("datasets")
    samples = run.samples_of_proposal("1234")
    server.stop()

    assert run.fetch("datasets") == found
    assert run.samples_of_proposal("1234") == samples
