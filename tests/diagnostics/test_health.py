"""Whether Kafka, the storage and SciCat are alive, asked in a way that never hangs, and told over HTTP.

Against the stand-ins for SciCat and Kafka.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from scicat_dagster.config.models import (
    FileHandlingSettings,
    HealthCheckSettings,
    KafkaSettings,
    ScicatSettings,
    Settings,
)
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Store
from scicat_dagster.demo.catalogue import create_app as create_catalogue
from scicat_dagster.demo.catalogue.faults import LOGIN, Call, Faults
from scicat_dagster.diagnostics.checkup import Check, Checkup, Question
from scicat_dagster.diagnostics.endpoint import create_app, gauge, listen
from scicat_dagster.diagnostics.probes import ScicatCheck, facility_checks, kafka_check, storage_check
from scicat_dagster.errors import PermanentError
from tests.storages import HANGS, faulty_storage
from tests.storages import Call as StorageCall

PASSWORD = "pa55word-nobody-may-see"
INGESTOR = Account("ingestor", PASSWORD, ("ingestor",), may_create_datasets=True, may_read_all=True)
WELL = Check(name="one", ok=True, words="It is well.")
LONG = 30.0


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[CatalogueServer]:
    with CatalogueServer(tmp_path / "catalogue.sqlite", Accounts((INGESTOR,))) as server:
        yield server


def scicat(server: CatalogueServer, **other: Any) -> ScicatSettings:
    login = {"username": "ingestor", "password": PASSWORD}
    return ScicatSettings.model_validate({"host": server.api_root, **login, **other})


def test_kafka_is_well_when_it_answers_and_has_the_topics(loopback_broker: LoopbackBroker) -> None:
    loopback_broker.create_topic("odin", 1)
    servers = (loopback_broker.bootstrap_servers,)

    well = kafka_check(KafkaSettings(topics=("odin",), bootstrap_servers=servers))
    missing = kafka_check(KafkaSettings(topics=("odin", "loki"), bootstrap_servers=servers))

    assert (well.ok, well.words) == (True, f"{servers[0]} answers and has odin.")
    assert not missing.ok
    assert "loki does not exist" in missing.words
    assert "Create the topic" in missing.remedy


def test_kafka_that_is_away_is_not_well_and_where_nothing_is_read_it_is_not_asked() -> None:
    away = kafka_check(
        KafkaSettings.model_validate(
            {
                "topics": "odin", "bootstrap_servers": "127.0.0.1:1", "sasl_mechanism": "PLAIN",
                "security_protocol": "sasl_plaintext", "sasl_username": "u", "sasl_password": PASSWORD,
            }
        )
    )  # fmt: skip

    assert not away.ok
    assert "127.0.0.1:1 does not answer" in away.words
    assert PASSWORD not in away.model_dump_json()
    assert kafka_check(KafkaSettings()).ok


def test_the_storage_is_well_when_it_can_be_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = FileHandlingSettings(data_directory=str(data))
    missing = storage_check(settings)
    data.mkdir()
    empty = storage_check(settings)
    (data / "one.hdf").touch()

    assert (missing.ok, "Mount it" in missing.remedy) == (False, True)
    assert (empty.ok, "Is it mounted?" in empty.words) == (True, True)
    assert storage_check(settings) == Check(name="storage", ok=True, words=f"{data} can be read.")


@pytest.mark.parametrize("call", ["look", "list"])
def test_a_storage_that_hangs_is_not_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: StorageCall
) -> None:
    monkeypatch.setattr("scicat_dagster.patience.PATIENCE_SECONDS", 0.2)
    settings = FileHandlingSettings(data_directory=str(tmp_path))
    with faulty_storage(tmp_path, b"", 0.0) as storage:
        storage.fail(HANGS, call)
        (found,) = Checkup({"storage": lambda: storage_check(settings)}).look().checks

    assert not found.ok
    assert f"The storage of {tmp_path} did not answer" in found.words


def test_a_folder_for_our_own_files_that_is_a_file_is_not_well(tmp_path: Path) -> None:
    (tmp_path / "ingestor").touch()

    found = storage_check(FileHandlingSettings(ingestor_files_directory=f"{tmp_path}/ingestor"))

    assert not found.ok
    assert "ingestor_files_directory" in found.words
    assert storage_check(FileHandlingSettings()).ok


def test_scicat_is_well_when_it_knows_us(catalogue: CatalogueServer) -> None:
    found = ScicatCheck(lambda: scicat(catalogue))()

    assert found.ok
    assert found.words == f"{catalogue.api_root} is healthy and knows us as ingestor."


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({"password": "wrong-" + PASSWORD}, "SciCat answered 401 when logging in as ingestor"),
        ({"username": "", "token": PASSWORD}, "does not know our login"),
    ],
)
def test_a_login_that_scicat_does_not_take_is_not_well_and_not_told(
    catalogue: CatalogueServer, login: dict[str, str], words: str
) -> None:
    found = Checkup({"scicat": ScicatCheck(lambda: scicat(catalogue, **login))}).look()

    assert not found.ok
    assert words in found.checks[0].words
    assert found.checks[0].remedy
    assert PASSWORD not in found.model_dump_json()


class Logins:
    """Counts the logins that are tried, and lets everything happen."""

    def __init__(self) -> None:
        self.number = 0

    def fault(self, call: Call) -> None:
        self.number += call.path == LOGIN


def test_a_login_that_was_refused_is_not_tried_at_each_check(tmp_path: Path) -> None:
    """Many servers lock an account after a few tries, and the check is made every few seconds."""
    logins, accounts = Logins(), Accounts((INGESTOR,))
    with Store(tmp_path / "catalogue.sqlite") as store:
        faults = Faults(create_catalogue(store, accounts), logins, store)
        with CatalogueServer(store, accounts, app=faults) as server, faults:
            check = ScicatCheck(lambda: scicat(server, password="wrong"))
            for _ in range(3):
                with pytest.raises(PermanentError):
                    check()

    assert logins.number == 1


def test_scicat_that_comes_back_without_its_logins_is_well_again(tmp_path: Path) -> None:
    server = CatalogueServer(tmp_path / "first.sqlite", Accounts((INGESTOR,)))
    with server:
        check = Checkup({"scicat": ScicatCheck(lambda: scicat(server))}, kept_seconds=0)
        assert check.look().ok
    assert not check.look().ok

    with CatalogueServer(tmp_path / "second.sqlite", Accounts((INGESTOR,)), port=server.port):
        assert check.look().ok


def test_a_login_that_scicat_forgot_is_renewed(tmp_path: Path) -> None:
    server = CatalogueServer(tmp_path / "first.sqlite", Accounts((INGESTOR,)))
    with server:
        check = ScicatCheck(lambda: scicat(server))
        assert check().ok

    with CatalogueServer(tmp_path / "second.sqlite", Accounts((INGESTOR,)), port=server.port):
        assert check().ok


def test_all_servers_and_folders_are_looked_at(catalogue: CatalogueServer) -> None:
    found = Checkup(facility_checks(lambda: Settings(scicat=scicat(catalogue)))).look()

    assert [check.name for check in found.checks] == ["kafka", "storage", "scicat"]
    assert found.ok
    assert [line.split()[:2] for line in found.as_text().splitlines()] == [
        ["ok", "kafka"],
        ["ok", "storage"],
        ["ok", "scicat"],
    ]


def test_what_is_not_well_is_told_with_its_remedy() -> None:
    def locked() -> Check:
        raise PermanentError("The door is locked.", remedy="Open it.")

    def broken() -> Check:
        raise ValueError(f"postgresql://user:{PASSWORD}@host")

    found = Checkup({"one": lambda: WELL, "locked": locked, "broken": broken}).look()

    assert not found.ok
    assert found.as_text().splitlines() == [
        "ok      one     It is well.",
        "not ok  locked  The door is locked.",
        "                Open it.",
        "not ok  broken  It cannot be looked at: ValueError.",
        "                See that it is there and answers.",
    ]


def test_a_check_that_hangs_holds_up_nobody_and_is_asked_once() -> None:
    mounted_again = threading.Event()
    asked = threading.Semaphore(0)

    def hanging() -> Check:
        asked.release()
        mounted_again.wait(LONG)
        return WELL

    checkup = Checkup({"storage": hanging, "one": lambda: WELL}, longest_wait_seconds=0.05)

    for _ in range(3):
        storage, one = checkup.look().checks
        assert (storage.ok, storage.words) == (False, "No answer within 0.05 s.")
        assert one.ok
    assert asked.acquire(timeout=LONG)
    assert not asked.acquire(blocking=False)
    mounted_again.set()


def test_many_probes_ask_as_often_as_one() -> None:
    asked: list[int] = []

    def counted() -> Check:
        asked.append(1)
        return WELL

    checkup = Checkup({"one": counted}, kept_seconds=LONG)
    threads = [threading.Thread(target=checkup.look) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert checkup.look().ok
    assert len(asked) == 1


def test_an_old_answer_is_not_given_again() -> None:
    answers = iter([1, 2])
    question = Question(lambda: next(answers), kept_seconds=0)

    given = []
    for _ in range(3):
        question.begin()
        given.append(question.answer(LONG))

    # The third time it fails, which is said in the log.
    assert given == [1, 2, None]


def served(tmp_path: Path, checkup: Checkup, *measures: Question[list[Metric]]) -> CatalogueServer:
    return CatalogueServer(tmp_path / "unused.sqlite", app=create_app(checkup, measures))


def test_the_endpoint_answers_200_when_all_is_well_and_503_when_not(tmp_path: Path) -> None:
    state = {"ok": True}
    checkup = Checkup({"one": lambda: Check(name="one", words="", **state)}, kept_seconds=0)

    with served(tmp_path, checkup) as server:
        well = requests.get(f"{server.url}/health", timeout=LONG)
        state["ok"] = False
        not_well = requests.get(f"{server.url}/health", timeout=LONG)
        live = requests.get(f"{server.url}/live", timeout=LONG)

    assert (well.status_code, well.headers["Content-Type"]) == (200, "application/json")
    assert well.json() == {"checks": [{"name": "one", "ok": True, "words": "", "remedy": ""}], "ok": True}
    assert (not_well.status_code, json.loads(not_well.text)["ok"]) == (503, False)
    assert live.status_code == 200


def test_prometheus_gets_each_check_and_each_measure(tmp_path: Path) -> None:
    checkup = Checkup({"one": lambda: WELL, "two": lambda: Check(name="two", ok=False, words="")})
    counts: Question[list[Metric]] = Question(
        lambda: [gauge("kafka_lag_messages", "Waiting.", {"odin": 17}, label="topic")]
    )

    def unknown() -> list[Metric]:
        raise OSError("The database is away.")

    with served(tmp_path, checkup, counts, Question(unknown)) as server:
        answer = requests.get(f"{server.url}/metrics", timeout=LONG)

    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples == {
        ("scicat_dagster_kafka_lag_messages", "odin"): 17,
        ("scicat_dagster_check_ok", "one"): 1,
        ("scicat_dagster_check_ok", "two"): 0,
    }


def test_a_port_that_is_taken_is_said_so() -> None:
    with listen(HealthCheckSettings(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(PermanentError, match=rf"listen at 127\.0\.0\.1:{port}"):
            listen(HealthCheckSettings(port=port))
