"""The demo: a whole facility in one process tree, with Dagster on top, and an account of what became of it.

This process holds the broker, the catalogue's stand-in and the file writer; ``dagster dev`` is its only
child. Here belong starting, watching and stopping them. What they are is in the other modules of ``demo``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path

import dagster as dg
import requests

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from scicat_dagster.demo import people
from scicat_dagster.demo.broker import LoopbackBroker
from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.server import CatalogueServer
from scicat_dagster.demo.catalogue.store import Store
from scicat_dagster.demo.file_writer import (
    Announcer,
    Extras,
    MessageKind,
    write_and_announce,
    write_files,
    write_past_file,
    write_unended,
)
from scicat_dagster.demo.measurement import (
    never_ended,
    of_new_instrument,
    plan_file,
    tomography,
    year_before,
)
from scicat_dagster.orchestration.tags import (
    AUTO_RETRY_RUN_TAG,
    PARTITION_TAG,
    RAW_DATASET,
    SAMPLE,
    WILL_RETRY_TAG,
)

LOOPBACK = "127.0.0.1"
SEED = 2026
PAST_SEED = 2025

_START_SECONDS = 120
_STOP_SECONDS = 20
_LOOK_SECONDS = 1.0
_SWITCH_SECONDS = 0.2
_FILES_BEFORE_OUTAGE = 3
_LONGEST_RUN_SECONDS = 90
_MESSAGES_FOR_NO_FILE = (MessageKind.BROKEN, MessageKind.FAILED)

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""The statuses of a run that waits or works."""


class DemoError(Exception):
    """The demo cannot be started, or a part of it ended by itself."""


@dataclass(frozen=True)
class Account:
    """What became of the files and messages; ``--exit-when-done`` prints it as JSON."""

    written: int
    registered: int
    failed: int
    rejected: int
    datasets: int
    origdatablocks: int
    samples: int
    seconds: float

    def agrees(self, expected_rejections: int) -> bool:
        """Whether every file is registered exactly once and every impossible message was rejected."""
        return (
            self.written == self.registered == self.datasets == self.origdatablocks
            and self.failed == 0
            and self.rejected == expected_rejections
        )


@dataclass
class Services:
    """What a facility has beside Dagster: a broker, a catalogue, and a folder with their configuration."""

    directory: Path
    catalogue: CatalogueServer
    store: Store
    """What the catalogue holds, also while it is away."""
    broker: LoopbackBroker
    environment: dict[str, str]
    """What the configuration reads from there."""
    password: str
    """Of the account that registers datasets."""

    @property
    def data_directory(self) -> Path:
        """Where the file writer writes."""
        return self.directory / "data"

    @property
    def settings(self) -> Path:
        """The environment of commands in another shell."""
        return self.directory / "environment"

    @property
    def outage(self) -> Path:
        """As long as there is such a file, SciCat is away."""
        return self.directory / "outage"

    def keep(self, environment: Mapping[str, str]) -> None:
        """Write the environment of commands in another shell, which holds the password."""
        self.settings.unlink(missing_ok=True)
        self.settings.touch(mode=0o600)
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))


@dataclass
class Laptop(Services):
    """A running demo."""

    dagster_url: str
    dagster: subprocess.Popen[bytes]
    instance: dg.DagsterInstance

    def write(self, files: int, pause_seconds: float, stop: threading.Event) -> tuple[int, int]:
        """Write and announce files; returns how many, and how many messages led to no file."""
        announcer = Announcer(self.broker.bootstrap_servers)
        plans = (plan_file(SEED, index) for index in range(files) if not stop.is_set())
        summary = write_files(
            plans,
            self.data_directory,
            announcer,
            extras=Extras(duplicate=True, broken=True, failed=True),
            # For most of the time it is measured, and then announced a moment before it is complete.
            while_measuring=lambda _path: _wait(stop, 0.8 * pause_seconds),
            while_open=lambda _path: _wait(stop, 0.2 * pause_seconds),
        )
        return len(summary.files), sum(summary.messages.get(kind, 0) for kind in _MESSAGES_FOR_NO_FILE)

    def write_failing(self) -> Path:
        """Write and announce the file that fails on purpose, because no schema is for its instrument."""
        plan = of_new_instrument(plan_file(SEED, 0))
        return write_and_announce(plan, self.data_directory, Announcer(self.broker.bootstrap_servers))

    def write_tomography(self) -> Path:
        """Write and announce the dataset of several files."""
        plan = tomography(plan_file(SEED, 0))
        return write_and_announce(plan, self.data_directory, Announcer(self.broker.bootstrap_servers))

    def write_unended(self) -> Path:
        """Announce the run that never ends, because the file writer crashes."""
        plan = never_ended(plan_file(SEED, 0))
        return write_unended(plan, self.data_directory, Announcer(self.broker.bootstrap_servers))

    def write_past(self, files: int) -> None:
        """Write files of a year earlier, which are stable since yesterday and which nobody announces."""
        for index in range(files):
            plan = year_before(plan_file(PAST_SEED, index))
            write_past_file(plan, self.data_directory, age_seconds=86_400)

    def account(self, written: int, seconds: float) -> Account:
        """What Dagster and the catalogue say now."""
        registered = self.instance.get_materialized_partitions(RAW_DATASET)
        samples = self.instance.get_materialized_partitions(SAMPLE)
        rejected = self.instance.fetch_observations(dg.AssetKey("rejected_messages"), limit=1000).records
        return Account(
            written=written,
            registered=len(registered),
            failed=len(self._failed() - registered - samples),
            rejected=len(rejected),
            datasets=self.store.count_datasets(),
            origdatablocks=self.store.count_origdatablocks(),
            samples=sum(1 for _ in self.store.find("samples", {})),
            seconds=round(seconds, 1),
        )

    def unfinished_runs(self) -> int:
        """Runs that wait or work, or will be retried."""
        return len(self.instance.get_run_ids(dg.RunsFilter(statuses=UNFINISHED))) + self._to_be_retried()

    def _failed(self) -> set[str]:
        runs = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        return {run.tags[PARTITION_TAG] for run in runs if PARTITION_TAG in run.tags}

    def _to_be_retried(self) -> int:
        runs = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        return sum(
            run.tags.get(WILL_RETRY_TAG) == "true" and AUTO_RETRY_RUN_TAG not in run.tags for run in runs
        )


@contextmanager
def running_services(directory: Path, dagster_url: str, *, api: str = "v3") -> Iterator[Services]:
    """Start broker and catalogue, with everything that they keep below ``directory``.

    Raises
    ------
    DemoError
        There is a demo below it already.
    """
    directory = directory.absolute()
    lay_out(directory)
    attach_samples(directory)
    with ExitStack() as stack:
        password = secrets.token_urlsafe()
        accounts = Accounts(replace(account, password=password) for account in demo_accounts())
        # A store of our own, which stays open while the catalogue is away.
        store = stack.enter_context(Store(directory / "catalogue.sqlite"))
        catalogue = stack.enter_context(
            CatalogueServer(store, accounts, port=_port(28080), dialect=Dialect.V5_2)
        )
        seed(store)
        broker = stack.enter_context(LoopbackBroker(_port(29092)))
        for instrument in people.INSTRUMENTS:
            broker.create_topic(instrument.topic, 2)
        environment = _environment(directory, catalogue, broker, password, dagster_url, api)
        services = Services(directory, catalogue, store, broker, environment, password)
        with _outages(services):
            yield services


@contextmanager
def running_laptop(directory: Path, port: int, *, api: str = "v3") -> Iterator[Laptop]:
    """Start everything below ``directory`` and stop every process of it in the end.

    Raises
    ------
    DemoError
        Dagster does not come up.
    """
    port = _port(port)
    url = f"http://{LOOPBACK}:{port}"
    with running_services(directory, url, api=api) as services, ExitStack() as stack:
        services.keep(services.environment)
        # Dagster's instance reads the facility's limit of runs from the same environment.
        os.environ.update(services.environment)
        dagster = stack.enter_context(_dagster_dev(services.directory, services.environment, port))
        _wait_until_up(url, dagster, services.directory)
        home = str(services.directory / "dagster")
        instance = stack.enter_context(dg.DagsterInstance.from_config(home))
        yield Laptop(**vars(services), dagster_url=url, dagster=dagster, instance=instance)


@contextmanager
def _outages(services: Services) -> Iterator[None]:
    """Take SciCat away while the file ``outage`` is there."""
    stop = threading.Event()

    def switch() -> None:
        is_away = False
        while not stop.wait(_SWITCH_SECONDS):
            if services.outage.exists() != is_away:
                is_away = not is_away
                (services.catalogue.stop if is_away else services.catalogue.start)()

    thread = threading.Thread(target=switch, name="outages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_SECONDS)


def _one_outage(laptop: Laptop, seconds: float, stop: threading.Event) -> None:
    """Let SciCat be away for a while, from when some files are registered."""
    while len(laptop.instance.get_materialized_partitions(RAW_DATASET)) < _FILES_BEFORE_OUTAGE:
        if stop.wait(_LOOK_SECONDS):
            return
    laptop.outage.touch()
    stop.wait(seconds)
    laptop.outage.unlink(missing_ok=True)


def run_headless(
    laptop: Laptop, files: int, *, timeout_seconds: float, report: Callable[[str], None]
) -> tuple[Account, bool]:
    """Write files, wait until each is registered or has failed, and say whether all numbers agree.

    Raises
    ------
    DemoError
        It is not done in time, or Dagster ended.
    """
    began = time.monotonic()
    written, impossible = laptop.write(files, 0.0, threading.Event())
    while True:
        account = laptop.account(written, time.monotonic() - began)
        settled = account.registered + account.failed >= written and account.rejected >= impossible
        if settled and laptop.unfinished_runs() == 0:
            return account, account.agrees(impossible)
        if laptop.dagster.poll() is not None:
            raise DemoError(f"Dagster ended; see {laptop.directory / 'dagster.log'}.")
        if account.seconds > timeout_seconds:
            raise DemoError(f"Not done after {timeout_seconds:.0f} s: {asdict(account)}.")
        report(f"{account.registered} of {written} files registered, {account.failed} failed")
        time.sleep(_LOOK_SECONDS)


def run_with_pages(
    laptop: Laptop,
    files: int,
    *,
    pause_seconds: float,
    outage_seconds: float,
    report: Callable[[str], None],
) -> None:
    """Write files in the background and say how far Dagster is, until Dagster or the user ends it.

    One more file fails on purpose, one more run never ends, and one more dataset has several files; with
    ``outage_seconds`` SciCat is away for so long in between.
    """
    stop = threading.Event()
    laptop.write_failing()
    laptop.write_unended()
    laptop.write_tomography()
    writer = threading.Thread(target=laptop.write, args=(files, pause_seconds, stop), daemon=True)
    writer.start()
    if outage_seconds:
        threading.Thread(target=_one_outage, args=(laptop, outage_seconds, stop), daemon=True).start()
    try:
        last = ""
        while laptop.dagster.poll() is None:
            account = laptop.account(files, 0)
            # Not "of": past files and those that somebody else writes count, too.
            away = "; SciCat is away" if laptop.outage.exists() else ""
            line = f"{account.registered} files registered, {account.failed} failed{away}"
            if line != last:
                report(line)
            last = line
            time.sleep(_LOOK_SECONDS)
        raise DemoError(f"Dagster ended; see {laptop.directory / 'dagster.log'}.")
    finally:
        stop.set()
        writer.join(timeout=_STOP_SECONDS)


def _wait(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def lay_out(directory: Path) -> None:
    """Put the facility's configuration, its schemas and an empty DAGSTER_HOME below ``directory``.

    Raises
    ------
    DemoError
        There is one already.
    """
    home = directory / "dagster"
    if home.exists():
        raise DemoError(f"{directory} holds an earlier demo. Remove it, or name another directory.")
    facility = Path(str(package_files("scicat_dagster.demo"))) / "data"
    home.mkdir(parents=True)
    (directory / "data").mkdir()
    shutil.copy(facility / "dagster.yaml", home)
    shutil.copy(facility / "config.yml", directory)
    shutil.copy(facility / "workspace.yaml", directory)
    shutil.copytree(facility / "schemas", directory / "schemas")


def attach_samples(directory: Path) -> None:
    """Let the schemas look for the samples of their files, which run starts make here."""
    for schema in sorted((directory / "schemas").glob("*.imsc.yml")):
        with schema.open("a", encoding="utf-8") as file:
            file.write("sample_attachment:\n  query_sample_name: true\n")


def seed(store: Store) -> None:
    """Make the facility's proposals and instruments known to the catalogue."""
    for proposal in (*people.PROPOSALS, people.COMMISSIONING):
        body = people.scicat_proposal(proposal)
        store.add_proposal(
            proposal.proposal_id,
            title=body["title"],
            pi_firstname=body["pi_firstname"],
            pi_lastname=body["pi_lastname"],
            pi_email=body["pi_email"],
            owner_group=body["ownerGroup"],
            access_groups=tuple(body["accessGroups"]),
        )
    for instrument in (*people.INSTRUMENTS, people.NEW_INSTRUMENT):
        store.add_instrument(instrument.name, unique_name=instrument.directory)


def _environment(
    directory: Path,
    catalogue: CatalogueServer,
    broker: LoopbackBroker,
    password: str,
    dagster_url: str,
    api: str,
) -> dict[str, str]:
    return {
        "DAGSTER_HOME": str(directory / "dagster"),
        CONFIGURATION_VARIABLE: str(directory / "config.yml"),
        "SCICAT_DEMO_DAGSTER_URL": dagster_url,
        "SCICAT_DEMO_PASSWORD": password,
        "SCICAT_DEMO_API": api,
        "SCICAT_DEMO_SAMPLES": "true",
        "SCICAT_DEMO_RUN_HOURS": str(_LONGEST_RUN_SECONDS / 3600),
        "SCICAT_DEMO_DATA_DIRECTORY": str(directory / "data"),
        "SCICAT_DEMO_SCICAT_PORT": str(catalogue.port),
        "SCICAT_DEMO_KAFKA_PORT": broker.bootstrap_servers.rpartition(":")[2],
    }


def _port(wanted: int) -> int:
    """The wanted port, or a free one where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _dagster_dev(
    directory: Path, environment: dict[str, str], port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """``dagster dev`` as a process group of its own, none of which survives."""
    command = [
        # It would greet with the hint that `dg dev` supersedes it, which wants a project around it.
        sys.executable, "-W", "ignore:Function `dev_command` is superseded",
        "-m", "dagster", "dev", "--workspace", str(directory / "workspace.yaml"),
        "--host", LOOPBACK, "--port", str(port),
    ]  # fmt: skip
    with (
        (directory / "dagster.log").open("wb") as log,
        subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            _stop_group(process)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.05)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_up(url: str, dagster: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if dagster.poll() is not None:
            break
        try:
            if requests.get(f"{url}/server_info", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise DemoError(f"Dagster did not come up; see {directory / 'dagster.log'}.")
