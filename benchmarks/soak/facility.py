"""Everything that runs in a soak: the catalogue and the broker in this process, Dagster in its own.

Here are also the announcements and a look at what became of them. What is done to the facility is the
storm's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import yaml
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.soak.processes import START_SECONDS, Processes, Production, SoakError
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.demo import people
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue import CatalogueServer, Dialect, Store, create_app, demo_accounts
from scicat_dagster.demo.catalogue.accounts import Accounts
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults, Random
from scicat_dagster.demo.file_writer import Announcer, Delivered, MessageKind
from scicat_dagster.demo.laptop import UNFINISHED, lay_out, seed
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.orchestration.failures.failed_files import FailedFile, failed_files
from scicat_dagster.orchestration.partitions import path_of, paths_of

FAULTS: Mapping[FaultKind, float] = {
    FaultKind.INTERNAL_ERROR: 0.01,
    FaultKind.BAD_GATEWAY: 0.01,
    FaultKind.UNAVAILABLE: 0.01,
    FaultKind.TOO_MANY: 0.01,
    FaultKind.HTML: 0.01,
    FaultKind.SLOW: 0.02,
    FaultKind.RESET: 0.02,
    FaultKind.STORED_THEN_TIMEOUT: 0.02,
    FaultKind.STORED_THEN_ERROR: 0.02,
    FaultKind.CARRIED_OUT_LATER: 0.01,
    FaultKind.TOKEN_EXPIRED: 0.02,
    # These happen to few requests only.
    FaultKind.LISTS_NOTHING: 0.02,
    FaultKind.LOGIN_DOWN: 0.06,
    FaultKind.DATABASE_DOWN: 0.04,
}
"""How likely each kind of fault is for a request."""
_MOST_FAULTS_IN_A_ROW = 3
_SLOW_SECONDS = 0.5
_PARTITIONS = 2


class Announcements(Announcer):
    """Remembers where each partition ends."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers)
        self.ends: dict[tuple[str, int], int] = {}

    def send(self, topic: str, kind: MessageKind, value: bytes, *, key: str) -> Delivered:
        """Put one message on the topic, as :meth:`Announcer.send` does."""
        delivered = super().send(topic, kind, value, key=key)
        self.ends[delivered.topic, delivered.partition] = delivered.offset + 1
        return delivered


@dataclass
class Facility:
    """Everything that runs."""

    directory: Path
    store: Store
    faults: Faults
    fault_plan: Random
    broker: LoopbackBroker | None
    announcements: Announcements
    processes: Processes
    instance: dg.DagsterInstance

    @property
    def data_directory(self) -> Path:
        """Where the file writer writes."""
        return self.directory / "data"


class _EachLate:
    """A catalogue that takes its time."""

    def fault(self, _: Call) -> FaultKind:
        return FaultKind.SLOW


@contextmanager
def running_facility(
    directory: Path,
    seed_: int,
    broker_address: str | None,
    layout: type[Processes],
    dialect: Dialect,
    api: str,
    chances: Mapping[FaultKind, float] = FAULTS,
    *,
    late_seconds: float = 0.0,
) -> Iterator[Facility]:
    """Start everything below ``directory`` and stop every process of it in the end.

    With ``late_seconds`` the catalogue fails in no way, and gives each answer so much later.
    """
    lay_out(directory)
    password = "soak"  # noqa: S105 - guards nothing
    accounts = Accounts(replace(account, password=password) for account in demo_accounts())
    fault_plan = Random(seed_, chances, most_in_a_row=_MOST_FAULTS_IN_A_ROW)
    with ExitStack() as stack:
        store = stack.enter_context(Store(directory / "catalogue.sqlite"))
        seed(store)
        app = create_app(store, accounts, dialect)
        plan = _EachLate() if late_seconds else fault_plan
        faults = Faults(app, plan, store, slow_seconds=late_seconds or _SLOW_SECONDS)
        server = stack.enter_context(CatalogueServer(store, accounts, app=faults))
        stack.enter_context(faults)
        broker = None if broker_address else stack.enter_context(LoopbackBroker())
        address = broker.bootstrap_servers if broker else str(broker_address)
        _create_topics(broker, address)
        environment = {
            "DAGSTER_HOME": str(directory / "dagster"),
            CONFIGURATION_VARIABLE: str(directory / "config.yml"),
            "SCICAT_DEMO_PASSWORD": password,
            "SCICAT_DEMO_API": api,
            "SCICAT_DEMO_DATA_DIRECTORY": str(directory / "data"),
            "SCICAT_DEMO_SCICAT_PORT": str(server.port),
        }
        if issubclass(layout, Production):
            environment |= layout.prepare(directory / "state", environment)
        home = Path(environment["DAGSTER_HOME"])
        begin = "earliest" if broker else "latest"
        layout.configure(home)
        _configure(directory / "config.yml", address, begin=begin, most_at_once=layout.most_at_once)
        # The instance is opened here, too, and reads its settings from the same environment.
        os.environ.update(environment)
        processes = layout(directory, environment)
        stack.callback(processes.stop)
        processes.start()
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        yield Facility(
            directory, store, faults, fault_plan, broker, Announcements(address), processes, instance
        )


def _create_topics(broker: LoopbackBroker | None, address: str) -> None:
    topics = [instrument.topic for instrument in people.INSTRUMENTS]
    if broker is not None:
        for topic in topics:
            broker.create_topic(topic, _PARTITIONS)
        return
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(topic, _PARTITIONS, 1) for topic in topics]).values():
        try:
            future.result(START_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise SoakError(f"Kafka at {address} is of no use: {error.args[0].str()}.") from error


def _configure(config: Path, address: str, *, begin: str, most_at_once: int) -> None:
    """Let the configuration name the broker; every time stays as a facility has it."""
    settings = yaml.safe_load(config.read_text())
    settings["kafka"] |= {"bootstrap_servers": address, "auto_offset_reset": begin}
    settings["ingestion"]["max_offline_ingestors"] = most_at_once
    config.write_text(yaml.safe_dump(settings))


@dataclass(frozen=True)
class Look:
    """What became of the files so far, by Dagster's account."""

    green: frozenset[str]
    failed: Mapping[str, FailedFile]
    unfinished: int
    runs: int
    is_behind: bool
    """Whether the sensor has messages left to read."""

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """Equal for two looks between which nothing happened."""
        return len(self.green), self.runs, self.unfinished, self.is_behind, frozenset(self.failed)


def look(facility: Facility) -> Look:
    """Look at Dagster's instance."""
    instance, data_directory = facility.instance, str(facility.data_directory)
    return Look(
        green=frozenset(
            paths_of(instance.get_materialized_partitions(dg.AssetKey("raw_dataset")), data_directory)
        ),
        failed={path_of(file.path, data_directory): file for file in failed_files(instance)},
        unfinished=len(instance.get_run_ids(dg.RunsFilter(statuses=UNFINISHED))),
        runs=instance.get_runs_count(),
        is_behind=_is_behind(facility),
    )


def _is_behind(facility: Facility) -> bool:
    cursor = cursor_of(facility.instance)
    return any(
        cursor.offsets.get(topic, {}).get(partition, -1) < end
        for (topic, partition), end in facility.announcements.ends.items()
    )


def cursor_of(instance: dg.DagsterInstance) -> Cursor:
    """Where the sensor is in the topics."""
    for state in instance.all_instigator_state():
        if state.instigator_name == "wrdn_sensor":
            return Cursor.parse(getattr(state.instigator_data, "cursor", None))
    return Cursor()
