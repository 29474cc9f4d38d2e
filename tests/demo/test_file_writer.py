"""The demo's file writer: what it plans, what it writes, what it sends, and in which order."""

from __future__ import annotations

import hashlib
import itertools
import stat
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import h5py
import pytest
import yaml
from confluent_kafka import KafkaError
from streaming_data_types import deserialise_answ, deserialise_pl72, deserialise_wrdn, deserialise_x5f2

from scicat_dagster.config.loading import load_configuration
from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.rebuild import build_again, extract_again
from scicat_dagster.dataset.samples import Sample
from scicat_dagster.demo.broker import LoopbackBroker, Request
from scicat_dagster.demo.facility import CONFIG_FILE, SCHEMAS_DIRECTORY
from scicat_dagster.demo.file_writer import (
    Announcer,
    DeliveryError,
    Extras,
    MessageKind,
    broken_message,
    foreign_messages,
    plan_file,
    write_and_announce,
    write_files,
    write_unended,
    written_message,
)
from scicat_dagster.demo.measurement import never_ended, next_attempt, tomography, year_before
from scicat_dagster.demo.people import (
    INSTRUMENTS,
    PROPOSALS,
    TOPICS,
    Person,
    scicat_instrument,
    scicat_proposal,
)
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.usecases.expected_datasets import RecordedCatalogue
from scicat_dagster.usecases.samples import sample_of_run
from tests.brokers import Record, read_topic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = 7


@pytest.fixture
def broker() -> Iterator[LoopbackBroker]:
    with LoopbackBroker() as broker:
        for topic, partitions in TOPICS.items():
            broker.create_topic(topic, partitions)
        yield broker


@pytest.fixture
def announcer(broker: LoopbackBroker) -> Announcer:
    return Announcer(broker.bootstrap_servers)


def sent_to(broker: LoopbackBroker) -> dict[str, list[Record]]:
    return {topic: read_topic(broker.bootstrap_servers, topic) for topic in TOPICS}


def schema_id(record: Record) -> bytes:
    assert record.value is not None
    return record.value[4:8]


def opens_elsewhere(path: Path) -> bool:
    """Whether another process can open the file, as an ingestor would."""
    program = "import sys, h5py; h5py.File(sys.argv[1], 'r').close()"
    return subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True).returncode == 0


def test_a_plan_follows_from_seed_and_number_alone() -> None:
    forwards = [plan_file(SEED, index) for index in range(50)]
    backwards = [plan_file(SEED, index) for index in reversed(range(50))]

    assert forwards == backwards[::-1]
    # Pinned, so that a dependence on the process, such as Python's salted hash, would be seen.
    assert plan_file(1, 0).job_id == "1d245aa4-1b96-4ce6-82c1-18d84088cbdf"


def test_plans_never_share_a_job_or_a_path(tmp_path: Path) -> None:
    plans = [plan_file(SEED, index) for index in range(500)]
    plans += [next_attempt(plan) for plan in plans]
    plans += [year_before(plan) for plan in plans]

    assert len({plan.job_id for plan in plans}) == 2000
    assert len({plan.path(tmp_path) for plan in plans}) == 2000
    assert len({plan.path(tmp_path).name for plan in plans}) == 2000
    assert plan_file(SEED + 1, 0).job_id != plan_file(SEED, 0).job_id


def test_neighbouring_plans_meet_every_instrument_and_proposal() -> None:
    plans = [plan_file(SEED, index) for index in range(20)]

    for first in range(15):
        neighbours = plans[first : first + 6]
        assert {plan.proposal.instrument for plan in neighbours[:3]} == set(INSTRUMENTS)
        assert {plan.proposal for plan in neighbours} == set(PROPOSALS)
    assert all(earlier.end_time < later.start_time for earlier, later in itertools.pairwise(plans))


def test_a_path_names_instrument_year_proposal_and_run(tmp_path: Path) -> None:
    plan = plan_file(SEED, 1)

    path = plan.path(tmp_path)

    year, proposal = str(plan.start_time.year), plan.proposal.proposal_id
    assert path == tmp_path / "loki" / year / proposal / "raw" / f"{proposal}_{plan.run_number}.hdf"


def test_a_file_may_be_read_while_it_is_measured(tmp_path: Path, announcer: Announcer) -> None:
    seen: list[Sample | str] = []
    plan = plan_file(SEED, 0)
    settings = Settings.model_validate({"scicat": {"host": "http://127.0.0.1:1/api/v3"}})

    def look_in(path: Path) -> None:
        assert not opens_elsewhere(path)
        seen.append(sample_of_run(path, load_schemas(SCHEMAS_DIRECTORY), settings))

    path = write_and_announce(plan, tmp_path, announcer, while_measuring=look_in)

    assert seen == [Sample(name=plan.sample, proposal_id=plan.proposal.proposal_id)]
    assert opens_elsewhere(path)


def test_a_run_that_never_ends_is_announced_and_leaves_its_file(
    tmp_path: Path, broker: LoopbackBroker, announcer: Announcer
) -> None:
    plan = never_ended(plan_file(SEED, 0))

    path = write_unended(plan, tmp_path, announcer)

    assert announcer.sent == {MessageKind.RUN_START: 1}
    assert opens_elsewhere(path)
    assert plan.path(tmp_path) != plan_file(SEED, 0).path(tmp_path)


def test_a_tomography_is_a_dataset_of_several_files(tmp_path: Path, announcer: Announcer) -> None:
    plan = tomography(plan_file(SEED, 0))
    environment = {"SCICAT_DEMO_DATA_DIRECTORY": str(tmp_path), "SCICAT_DEMO_PASSWORD": "pwd"}
    settings = load_configuration(CONFIG_FILE, environment).settings
    proposal = scicat_proposal(plan.proposal)
    catalogue = RecordedCatalogue({f"proposals/{plan.proposal.proposal_id}": proposal})

    path = write_and_announce(plan, tmp_path, announcer)

    extracted = extract_again(str(path), load_schemas(SCHEMAS_DIRECTORY), catalogue, settings)
    (built,) = build_again(extracted, settings)
    listed: Any = built.origdatablock["dataFileList"]
    frames = plan.frame_paths(tmp_path)
    assert {f"raw/{frame.name}" for frame in (path, *frames)} <= {file["path"] for file in listed}
    entries: Any = built.dataset["scientificMetadata"]
    assert entries["rotation_angles"]["value"] == list(plan.rotation_angles)
    assert built.notices == ()


def test_the_message_is_on_the_topic_before_the_file_is_complete(
    broker: LoopbackBroker, announcer: Announcer, tmp_path: Path
) -> None:
    plan = plan_file(SEED, 0)
    seen: dict[str, Any] = {}

    def look_around(path: Path) -> None:
        seen["records"] = read_topic(broker.bootstrap_servers, plan.proposal.instrument.topic)
        seen["opens"] = opens_elsewhere(path)
        seen["mode"] = stat.S_IMODE(path.stat().st_mode)
        seen["checksum"] = hashlib.blake2b(path.read_bytes()).digest()

    path = write_and_announce(plan, tmp_path, announcer, while_open=look_around)

    [record] = seen["records"]
    assert deserialise_wrdn(record.value).file_name == str(path)
    assert not seen["opens"]
    assert seen["mode"] & stat.S_IWUSR
    assert seen["checksum"] != hashlib.blake2b(path.read_bytes()).digest()
    assert opens_elsewhere(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


@pytest.mark.parametrize("index", range(len(PROPOSALS)))
def test_a_file_says_what_was_planned(index: int, announcer: Announcer, tmp_path: Path) -> None:
    plan = plan_file(SEED, index)
    instrument = plan.proposal.instrument

    path = write_and_announce(plan, tmp_path, announcer)

    with h5py.File(path) as file:
        entry = file["entry"]
        texts = {
            name: entry[name].asstr()[()]
            for name in (
                "title",
                "definition",
                "entry_identifier",
                "entry_identifier_uuid",
                "experiment_identifier",
                "experiment_description",
                "instrument/name",
                "sample/name",
                "start_time",
                "end_time",
            )
        }
        users = [entry[name]["name"].asstr()[()] for name in entry if name.startswith("user_")]
        temperature = entry["sample/temperature"]
        events = entry[f"instrument/{instrument.detector}/{instrument.detector}_events"]
        chopper = entry["instrument/band_chopper/rotation_speed"]

        assert texts == {
            "title": plan.title,
            "definition": instrument.definition,
            "entry_identifier": str(plan.run_number),
            "entry_identifier_uuid": plan.job_id,
            "experiment_identifier": plan.proposal.proposal_id,
            "experiment_description": plan.proposal.title,
            "instrument/name": instrument.name,
            "sample/name": plan.sample,
            "start_time": f"{plan.start_time:%Y-%m-%dT%H:%M:%S}.{plan.start_time.microsecond // 1000:03d}Z",
            "end_time": f"{plan.end_time:%Y-%m-%dT%H:%M:%S}.{plan.end_time.microsecond // 1000:03d}Z",
        }
        assert sorted(users) == sorted(user.name for user in plan.users)
        assert len(users) >= 2
        assert (temperature[()], temperature.attrs["units"]) == (plan.temperature_kelvin, "K")
        assert (chopper[()], chopper.attrs["units"]) == (plan.choppers[0].rotation_speed_hz, "Hz")
        assert events.attrs["NX_class"] == "NXevent_data"
        assert events["event_id"].shape == events["event_time_offset"].shape == (plan.event_count,)
        assert events["event_id"].compression == "gzip"
        assert 1 <= events["event_id"][()].min() <= events["event_id"][()].max() <= instrument.pixels
    assert 50_000 < path.stat().st_size < 500_000


def test_equal_plans_give_equal_files(announcer: Announcer, tmp_path: Path) -> None:
    plan = plan_file(SEED, 2)

    first = write_and_announce(plan, tmp_path / "first", announcer)
    second = write_and_announce(plan, tmp_path / "second", announcer)

    assert first.read_bytes() == second.read_bytes()


def test_a_file_is_never_overwritten_nor_announced_a_second_time(
    announcer: Announcer, tmp_path: Path
) -> None:
    plan = plan_file(SEED, 0)
    path = write_and_announce(plan, tmp_path, announcer)
    content = path.read_bytes()

    with pytest.raises(FileExistsError):
        write_and_announce(plan, tmp_path, announcer)

    assert path.read_bytes() == content
    assert announcer.sent == {MessageKind.WRITTEN: 1}


def test_what_the_summary_counts_is_on_the_topics(
    broker: LoopbackBroker, announcer: Announcer, tmp_path: Path
) -> None:
    plans = [plan_file(SEED, index) for index in range(6)]

    summary = write_files(
        plans, tmp_path, announcer, extras=Extras(foreign=True, duplicate=True, broken=True, failed=True)
    )

    assert summary.messages == {
        MessageKind.RUN_START: 6,
        MessageKind.STATUS: 6,
        MessageKind.WRITTEN: 6,
        MessageKind.ANSWER: 6,
        MessageKind.DUPLICATE: 1,
        MessageKind.BROKEN: 1,
        MessageKind.FAILED: 1,
    }
    records = [record for topic in sent_to(broker).values() for record in topic]
    assert summary.total == len(records) == 27
    assert Counter(map(schema_id, records)) == {b"pl72": 6, b"x5f2": 6, b"answ": 6, b"wrdn": 9}
    cut_off = broken_message(plans[0], summary.files[0])
    announced = [
        deserialise_wrdn(record.value)
        for record in records
        if schema_id(record) == b"wrdn" and record.value != cut_off
    ]
    assert Counter(each.file_name for each in announced if not each.error_encountered) == {
        str(path): 2 if path == summary.files[0] else 1 for path in summary.files
    }
    [failed] = [each for each in announced if each.error_encountered]
    assert "no space left" in failed.message
    assert failed.file_name not in {str(path) for path in tmp_path.rglob("*.hdf")}
    assert sorted(tmp_path.rglob("*.hdf")) == sorted(summary.files)
    assert {path.parent.parent.parent.parent.name for path in summary.files} == {"odin", "loki", "dream"}


def test_each_topic_holds_its_own_instrument(
    broker: LoopbackBroker, announcer: Announcer, tmp_path: Path
) -> None:
    write_files(
        [plan_file(SEED, index) for index in range(6)], tmp_path, announcer, extras=Extras(foreign=False)
    )

    for instrument in INSTRUMENTS:
        announced = [deserialise_wrdn(record.value) for record in sent_to(broker)[instrument.topic]]
        assert len(announced) == 2
        assert all(f"/{instrument.directory}/" in each.file_name for each in announced)
        assert {each.service_id for each in announced} == {f"{instrument.directory}_filewriter_1"}


def test_messages_of_one_job_keep_their_order(
    broker: LoopbackBroker, announcer: Announcer, tmp_path: Path
) -> None:
    plan = plan_file(SEED, 2)
    write_files([plan], tmp_path, announcer, extras=Extras(broken=True, duplicate=True))

    records = sent_to(broker)[plan.proposal.instrument.topic]

    assert {record.key for record in records} == {plan.job_id.encode()}
    assert len({record.partition for record in records}) == 1
    ids = [schema_id(record) for record in records]
    assert ids == [b"pl72", b"x5f2", b"wrdn", b"answ", b"wrdn", b"wrdn"]
    assert records[2].value == records[5].value


def test_a_summary_counts_its_own_call_only(announcer: Announcer, tmp_path: Path) -> None:
    write_files([plan_file(SEED, 0)], tmp_path, announcer)

    summary = write_files([plan_file(SEED, 1)], tmp_path, announcer, extras=Extras(foreign=False))

    assert summary.messages == {MessageKind.WRITTEN: 1}
    assert len(summary.files) == 1
    assert write_files([], tmp_path, announcer, extras=Extras(duplicate=True)).total == 0


def test_foreign_messages_are_genuine_messages_of_their_schemas(tmp_path: Path) -> None:
    plan = plan_file(SEED, 4)
    path = plan.path(tmp_path)

    messages = foreign_messages(plan, path)

    start = deserialise_pl72(messages[MessageKind.RUN_START])
    assert (start.job_id, start.filename, start.run_name) == (plan.job_id, str(path), str(plan.run_number))
    assert deserialise_answ(messages[MessageKind.ANSWER]).job_id == plan.job_id
    assert plan.job_id in deserialise_x5f2(messages[MessageKind.STATUS]).status_json


@pytest.mark.parametrize("index", range(6))
def test_a_broken_message_has_the_schema_id_and_cannot_be_decoded(index: int, tmp_path: Path) -> None:
    plan = plan_file(SEED, index)
    path = plan.path(tmp_path)

    broken = broken_message(plan, path)

    assert broken[4:8] == b"wrdn"
    assert written_message(plan, path).startswith(broken)
    with pytest.raises(Exception, match="buffer"):
        deserialise_wrdn(broken)


def test_a_file_whose_message_does_not_arrive_stays_incomplete(
    broker: LoopbackBroker, tmp_path: Path
) -> None:
    plan = plan_file(SEED, 0)
    broker.set_down()

    with pytest.raises(DeliveryError, match="wrdn for odin_filewriter was not delivered"):
        write_and_announce(plan, tmp_path, Announcer(broker.bootstrap_servers, timeout=1))

    path = plan.path(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IWUSR
    with h5py.File(path) as file:
        assert "end_time" not in file["entry"]


def test_a_refusal_by_the_broker_is_raised_and_not_counted(
    broker: LoopbackBroker, announcer: Announcer
) -> None:
    broker.push_errors(Request.PRODUCE, KafkaError.POLICY_VIOLATION)

    with pytest.raises(DeliveryError, match=r"x5f2 for odin_filewriter was not delivered: .*olicy"):
        announcer.send("odin_filewriter", MessageKind.STATUS, b"status", key="job")

    assert announcer.sent == {}


def test_a_refusal_by_the_client_is_raised_and_not_counted(announcer: Announcer) -> None:
    with pytest.raises(DeliveryError, match=r"x5f2 for odin_filewriter was refused: .*too large"):
        announcer.send("odin_filewriter", MessageKind.STATUS, bytes(2_000_000), key="job")

    assert announcer.sent == {}


def test_a_delivery_says_where_the_message_is(broker: LoopbackBroker, announcer: Announcer) -> None:
    places = [announcer.send("dream_filewriter", MessageKind.STATUS, b"%d" % n, key=str(n)) for n in range(9)]

    records = read_topic(broker.bootstrap_servers, "dream_filewriter")
    assert {(place.partition, place.offset) for place in places} == {
        (record.partition, record.offset) for record in records
    }
    assert {place.partition for place in places} == {0, 1}


def test_people_get_addresses_that_any_catalogue_accepts() -> None:
    person = Person("Anna", "Öberg", "University of Norrhamn")

    assert person.user_id == "annaoberg"
    assert person.email == "annaoberg@example.org"
    everybody = {person for proposal in PROPOSALS for person in proposal.team}
    assert len({person.user_id for person in everybody}) == len(everybody)


def test_the_ingestor_may_read_every_proposal() -> None:
    for proposal in PROPOSALS:
        body = scicat_proposal(proposal)
        assert body["accessGroups"] == ["ingestor"]
        assert isinstance(body["proposalId"], str)
        assert proposal.principal_investigator in proposal.team


def test_the_configuration_reads_the_topics_of_the_instruments(tmp_path: Path) -> None:
    environment = {"SCICAT_DEMO_PASSWORD": "not-a-secret", "SCICAT_DEMO_DATA_DIRECTORY": str(tmp_path)}

    configuration = load_configuration(CONFIG_FILE, environment)

    assert configuration.warnings == ()
    assert configuration.schemas_directory == SCHEMAS_DIRECTORY
    assert set(configuration.settings.kafka.topics) == set(TOPICS)
    assert configuration.settings.ingestion.file_handling.data_directory == str(tmp_path)


def test_each_file_belongs_to_the_schema_of_its_instrument(tmp_path: Path) -> None:
    schemas = load_schemas(SCHEMAS_DIRECTORY)

    assert [file.located_mistakes() for file in schemas.files] == [[]] * (len(INSTRUMENTS) + 1)
    for index in range(6):
        plan = plan_file(SEED, index)
        chosen = schemas.select(str(plan.path(tmp_path)))
        assert chosen.instrument == plan.proposal.instrument.directory


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.directory)
def test_a_schema_asks_only_for_what_its_files_hold(
    instrument: Any, announcer: Announcer, tmp_path: Path
) -> None:
    schema = yaml.safe_load((SCHEMAS_DIRECTORY / f"{instrument.directory}.imsc.yml").read_text("utf-8"))
    wanted = [each["path"] for each in schema["variables"].values() if each["source"] == "NXS"]
    plan = next(
        plan
        for plan in (plan_file(SEED, index) for index in range(3))
        if plan.proposal.instrument == instrument
    )

    with h5py.File(write_and_announce(plan, tmp_path, announcer)) as file:
        missing = [path for path in wanted if "*" not in path and path not in file]

    assert wanted
    assert missing == []
    assert scicat_instrument(instrument)["name"] == instrument.name
