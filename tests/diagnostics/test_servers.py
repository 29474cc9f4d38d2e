"""``scicat-dagster validate --live`` asks what the configuration names, and writes nothing.

Against the stand-ins for SciCat and Kafka.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Store, create_app
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults

PASSWORD = "pa55word-nobody-may-see"
NOWHERE = "127.0.0.1:1"
PROPOSAL = "443503"
INGESTOR = Account("ingestor", PASSWORD, ("ingestor",), may_create_datasets=True, may_read_all=True)


class Calls:
    """A plan without faults that keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Call] = []

    def fault(self, call: Call) -> FaultKind | None:
        self.asked.append(call)
        return None


@dataclass
class Catalogue:
    server: CatalogueServer
    calls: Calls
    instrument: str


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path_factory.mktemp("catalogue") / "catalogue.sqlite") as store:
        calls = Calls()
        app = Faults(create_app(store, accounts), calls, store)
        with CatalogueServer(store, accounts, app=app) as server:
            store.add_proposal(
                PROPOSAL, title="T", pi_firstname="Ada", pi_lastname="Lovelace", pi_email="ada@example.com",
                owner_group="ingestor",
            )  # fmt: skip
            instrument = store.add_instrument("ODIN", unique_name="odin")
            yield Catalogue(server, calls, str(instrument["pid"]))


@dataclass
class Facility:
    folder: Path
    catalogue: Catalogue
    schema: dict[str, Any]
    configuration: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, *options: str) -> Result:
        """The command, which prints no secret and writes nothing."""
        (self.folder / "config.yml").write_text(yaml.safe_dump(self.configuration), encoding="utf-8")
        path = self.folder / "schemas" / "one.imsc.yml"
        path.write_text(yaml.safe_dump(self.schema, sort_keys=False), encoding="utf-8")
        before = sorted(self.folder.rglob("*"))
        self.catalogue.calls.asked.clear()
        result = CliRunner().invoke(main, ["validate", str(self.folder / "config.yml"), "--live", *options])
        assert PASSWORD not in result.output
        assert isinstance(result.exception, SystemExit | None)
        assert sorted(self.folder.rglob("*")) == before
        written = {call.path for call in self.catalogue.calls.asked if call.method != "GET"}
        assert written <= {"auth/login"}
        return result

    def found(self, subject: str, *options: str) -> list[tuple[str, str]]:
        """Result and words of each check of a subject."""
        shown = json.loads(self.run("--json", *options).stdout)
        return [(row["result"], row["what"]) for row in shown["checks"] if row["check"] == subject]

    def assign(self, name: str, value: str) -> None:
        self.schema["schema"][name] = {
            "field_type": "high_level", "machine_name": name, "value": value, "type": "string",
        }  # fmt: skip


@pytest.fixture
def facility(
    tmp_path: Path, catalogue: Catalogue, loopback_broker: LoopbackBroker, schema_document: dict[str, Any]
) -> Facility:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "data").mkdir()
    loopback_broker.create_topic("odin", 3)
    loopback_broker.create_topic("rejected", 1)
    configuration: dict[str, dict[str, Any]] = {
        "ingestion": {"file_handling": {"data_directory": str(tmp_path / "data")}},
        "kafka": {"topics": ["odin"], "bootstrap_servers": loopback_broker.bootstrap_servers},
        "scicat": {
            "host": catalogue.server.api_root, "username": "ingestor", "password": PASSWORD, "timeout": 5,
        },
    }  # fmt: skip
    return Facility(tmp_path, catalogue, schema_document, configuration)


def test_a_facility_that_is_well_has_no_mistake(facility: Facility) -> None:
    result = facility.run()

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("0 mistakes, 0 warnings; ")
    assert "kafka.topics: odin has 3 partitions." in result.stdout
    assert "We are ingestor, in globalaccess, ingestor." in result.stdout
    assert "the first registration shows it" in result.stdout


def test_a_configuration_that_cannot_be_used_says_that_no_server_was_asked(facility: Facility) -> None:
    facility.catalogue.calls.asked.clear()
    facility.configuration["scicat"]["timeout"] = "soon"

    result = facility.run("--json")

    rows = json.loads(result.stdout)["checks"]
    assert result.exit_code == 1
    assert [row["result"] for row in rows] == ["mistake", "unchecked"]
    assert facility.catalogue.calls.asked == []


def test_a_topic_that_does_not_exist_is_a_mistake_and_is_not_made(facility: Facility) -> None:
    facility.configuration["kafka"]["topics"] = ["odin", "loki"]

    for _ in range(2):
        found = facility.found("kafka")
        assert ("mistake", "kafka.topics: loki does not exist, or this account may not see it.") in found
        assert ("ok", "kafka.topics: odin has 3 partitions.") in found


@pytest.mark.parametrize(("topic", "result"), [("rejected", "ok"), ("no_such", "mistake")])
def test_the_dead_letter_topic_is_looked_for(facility: Facility, topic: str, result: str) -> None:
    facility.configuration["kafka"]["dead_letter_topic"] = topic

    found = facility.found("kafka")

    assert [outcome for outcome, what in found if what.startswith("kafka.dead_letter_topic: ")] == [result]


def test_brokers_that_are_away_could_not_be_checked(facility: Facility) -> None:
    facility.configuration["kafka"]["bootstrap_servers"] = NOWHERE

    result = facility.run()

    assert result.exit_code == 2
    assert f"Kafka at {NOWHERE} does not answer" in result.stdout


def test_settings_that_kafka_does_not_know_are_a_mistake(facility: Facility) -> None:
    facility.configuration["kafka"]["security_protocol"] = "secret_handshake"

    ((result, what),) = facility.found("kafka")

    assert result == "mistake"
    assert "The kafka section cannot be used" in what


def test_nobody_is_asked_where_no_broker_is_named(facility: Facility) -> None:
    del facility.configuration["kafka"]

    assert facility.found("kafka") == []


def test_a_catalogue_that_is_away_could_not_be_checked(facility: Facility) -> None:
    facility.configuration["scicat"]["host"] = f"http://{NOWHERE}/api/v3"

    result = facility.run()

    assert result.exit_code == 2
    assert "SciCat cannot be reached" in result.stdout


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("password", "wrong", "Unauthorized"),
        ("health_endpoint", "nowhere", "asking for its health"),
        ("username", "", "does not know our login"),
    ],
)
def test_a_login_or_address_that_is_wrong_is_a_mistake(
    facility: Facility, key: str, value: str, words: str
) -> None:
    facility.configuration["scicat"][key] = value

    found = facility.found("scicat")

    assert found[-1][0] == "mistake"
    assert words in found[-1][1]
    assert facility.run().exit_code == 1


def test_an_owner_group_that_the_account_is_not_in_is_a_warning(facility: Facility) -> None:
    facility.configuration["dataset"] = {"default_owner_group": "strangers"}

    found = facility.found("scicat")

    assert ("warning", "dataset.default_owner_group: ingestor is not in strangers.") in found


def test_instruments_and_proposals_that_scicat_knows_are_said(facility: Facility) -> None:
    facility.configuration["dataset"] = {
        "default_instrument_id": facility.catalogue.instrument, "default_proposal_id": PROPOSAL,
    }  # fmt: skip

    found = facility.found("scicat")

    assert [result for result, what in found if what.endswith(" is known.")] == ["ok", "ok"]


def test_an_instrument_that_scicat_does_not_know_is_a_mistake(facility: Facility) -> None:
    facility.configuration["dataset"] = {"default_instrument_id": "no/such"}
    facility.assign("instrumentId", "neither")

    mistakes = [what for result, what in facility.found("scicat") if result == "mistake"]

    assert len(mistakes) == 2
    assert "dataset.default_instrument_id: the instrument no/such is not known" in mistakes[0]
    assert "one.imsc.yml: the instrument neither is not known" in mistakes[1]


def test_a_proposal_that_we_may_not_see_may_be_there_all_the_same(facility: Facility) -> None:
    facility.configuration["dataset"] = {"default_proposal_id": "999999"}

    warnings = [what for result, what in facility.found("scicat") if result == "warning"]

    assert ["999999" in what for what in warnings] == [True]


@pytest.mark.parametrize(
    ("definition", "literal"),
    [
        ({"source": "VALUE", "value": "neither", "value_type": "string"}, True),
        ({"source": "VALUE", "operator": "to_upper", "value": "neither", "value_type": "string"}, False),
        ({"source": "NXS", "path": "/entry/title", "value_type": "string"}, False),
    ],
)
def test_an_instrument_in_a_schema_is_asked_for_where_no_file_changes_it(
    facility: Facility, definition: dict[str, Any], literal: bool
) -> None:
    facility.schema["variables"] = {"instrument": definition}
    facility.assign("instrumentId", "<instrument>")

    asked = [what for _, what in facility.found("scicat") if "the instrument" in what]

    assert len(asked) == literal


def test_a_data_directory_that_is_not_there_is_a_mistake(facility: Facility) -> None:
    facility.configuration["ingestion"]["file_handling"]["data_directory"] = str(facility.folder / "no")

    found = facility.found("directory")

    assert (
        "mistake",
        f"ingestion.file_handling.data_directory: {facility.folder / 'no'} is not a folder here.",
    ) in (found)


@pytest.mark.parametrize("given", ["../ingestor", "/ingestor"])
def test_where_our_own_files_would_go_is_looked_at_without_making_it(facility: Facility, given: str) -> None:
    directory = f"{facility.folder}{given}" if given.startswith("/") else given
    facility.configuration["ingestion"]["file_handling"]["ingestor_files_directory"] = directory

    found = facility.found("directory", "--against", str(facility.folder / "raw" / "one.nxs"))

    may_write = f"ingestor_files_directory: {facility.folder}: the account that runs this command may write"
    assert any(may_write in what for result, what in found if result == "ok")
    assert any("only files tell" in what for _, what in found) == (not given.startswith("/"))


def test_files_are_evaluated_with_what_scicat_knows(facility: Facility, data_folder: Path) -> None:
    facility.configuration["ingestion"]["file_handling"]["data_directory"] = str(data_folder)
    facility.schema["variables"] = {
        "pi": {
            "source": "SC", "url": f"proposals/{PROPOSAL}", "field": "pi_firstname", "value_type": "string",
        },
    }  # fmt: skip
    facility.assign("owner", "<pi>")
    facility.configuration["ingestion"]["file_handling"]["message_to_file"] = False
    facility.configuration["ingestion"]["file_handling"]["save_file_hash"] = False

    shown = json.loads(facility.run("--json", "--against", str(data_folder / "small-coda.hdf")).stdout)

    (file,) = shown["files"]
    assert file["registrable"] is True
    assert file["unknown"] == []


def test_a_facility_that_makes_samples_is_told_whether_it_may_ask_for_them(facility: Facility) -> None:
    assert not [what for _, what in facility.found("scicat") if "ingestion.samples" in what]

    facility.configuration["ingestion"]["samples"] = True
    (good,) = [found for found in facility.found("scicat") if "ingestion.samples" in found[1]]
    facility.configuration["scicat"]["api_endpoints"] = {"samples": "nowhere"}
    (wrong,) = [found for found in facility.found("scicat") if "ingestion.samples" in found[1]]

    assert good[0] == "ok"
    assert wrong[0] == "mistake"
