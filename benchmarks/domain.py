"""What the domain alone costs: CPU seconds, memory and imports, without Dagster's daemon, Kafka or a network.

``python -m benchmarks.domain [sensor|metadata|values|preview|checksum|memory|huge|imports]`` prints one JSON
object per figure, with its target. Times are CPU times, because other work on the machine lengthens them
least; what is compared with something else is measured in turns with it. The whole service is measured by
``benchmarks.service``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import dagster as dg
import h5py
import numpy as np
from blake3 import blake3
from pydantic import JsonValue

from scicat_dagster import isolation
from scicat_dagster.config.current import CurrentConfiguration
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.config.models import FileHandlingSettings, Settings
from scicat_dagster.dataset import ingestion
from scicat_dagster.demo.catalogue import CatalogueServer, demo_accounts
from scicat_dagster.demo.facility import SCHEMAS_DIRECTORY
from scicat_dagster.demo.file_writer import written_message
from scicat_dagster.demo.laptop import seed
from scicat_dagster.demo.measurement import PlannedFile, plan_file
from scicat_dagster.demo.nexus import write_beginning, write_end
from scicat_dagster.demo.people import INGESTOR_GROUP, PROPOSALS, scicat_proposal
from scicat_dagster.files.description import describe_file
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.isolated.hdf5 import open_nexus
from scicat_dagster.files.reading import Read, look_at, read_values
from scicat_dagster.files.sidecars import write_sidecars
from scicat_dagster.files.thumbnail_models import Wanted
from scicat_dagster.files.thumbnails import draw
from scicat_dagster.kafka.batch import Batch
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.messages import FileWritten, KafkaMessage, Position, read_message
from scicat_dagster.kafka.reader import AnnouncementReader
from scicat_dagster.orchestration.facility import Facility
from scicat_dagster.orchestration.ingest.sensor import wrdn_sensor
from scicat_dagster.orchestration.names import UNPREFIXED
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.schemas.variables import reads_of
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register

R = TypeVar("R")

_SEED = 3
_LONG_AGO = 1_700_000_000.0
_TEST_DATA = Path(__file__).parents[1] / "tests" / "data"
_MILLION = 1_000_000


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``at_most`` or ``at_least`` is what it should be, where that was decided."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether it is what it should be."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def as_json(self) -> dict[str, Any]:
        """What is printed."""
        known = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        return known | {"is good": self.is_good}


# --- What is measured on


class Answers:
    """A catalogue that knows every proposal and instrument, and answers at once."""

    def fetch(self, url: str) -> JsonValue:
        """A proposal, or the list of one instrument."""
        if url.startswith("proposals/"):
            answer: JsonValue = scicat_proposal(PROPOSALS[0])
            return answer
        return [{"pid": "instrument-1", "id": "instrument-1", "name": "ODIN"}]

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:  # noqa: ARG002
        """None."""
        return []


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder, for as long as the body lasts."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        yield Path(name)


def demo_file(directory: Path, index: int = 0) -> tuple[PlannedFile, Path]:
    """A file of the demo's facility, as it was planned and where it is."""
    plan = plan_file(_SEED, index)
    path = plan.path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "x") as content:
        write_beginning(content, plan)
        write_end(content, plan)
    return plan, _old(path)


def _real_file(directory: Path) -> tuple[Path, Path]:
    """A real facility's file, and the folder of its schema."""
    schemas = directory / "schemas"
    schemas.mkdir()
    _old(Path(shutil.copy(_TEST_DATA / "small-coda.imsc.yml", schemas)))
    return _old(Path(shutil.copy(_TEST_DATA / "small-coda.hdf", directory))), schemas


def _old(path: Path) -> Path:
    os.utime(path, (_LONG_AGO, _LONG_AGO))
    return path


def _settings(**handling: Any) -> Settings:
    return Settings.model_validate(
        {"scicat": {"host": "http://127.0.0.1/api/v3"}, "ingestion": {"file_handling": handling}}
    )


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _in_a_process(work: Callable[..., R], *arguments: Any) -> R:
    """The answer of a function that has a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


# --- The sensor


class _WaitingMessages(AnnouncementReader):
    """Messages that were fetched before the sensor asks for them."""

    def __init__(self, waiting: Sequence[KafkaMessage], settings: Settings) -> None:
        super().__init__(settings.kafka)
        self._waiting = waiting

    def read(self, cursor: Cursor, *, most: int, wait_seconds: float) -> Batch:  # noqa: ARG002
        """The next messages after the cursor; one partition holds them all."""
        topic = self._waiting[0].position.topic
        first = cursor.offsets.get(topic, {}).get(0, 0)
        batch = Batch(
            list(self._waiting[first : first + most]), cursor, ends={(topic, 0): len(self._waiting)}
        )
        batch.cursor = cursor.moved({(topic, 0): first + len(batch.messages)})
        return batch


@dataclass
class _Overwhelmed(Facility):
    """A facility whose file writer was not listened to for long."""

    waiting: Sequence[KafkaMessage] = ()

    @property
    def announcements(self) -> AnnouncementReader:
        """The messages that wait."""
        return _WaitingMessages(self.waiting, self.settings)


def sensor(messages: int = 10_000, rounds: int = 5) -> Iterator[Figure]:
    """Waiting messages become run requests: all of what ``wrdn_sensor`` does but asking Kafka."""
    data, topic = Path("/data"), "announcements"
    plans = [plan_file(_SEED, index) for index in range(messages)]
    waiting = [
        KafkaMessage(
            Position(topic, 0, plan.index), written_message(plan, plan.path(data)), 1_790_000_000_000
        )
        for plan in plans
    ]
    with folder() as directory, dg.DagsterInstance.ephemeral() as instance:
        path = directory / "config.yml"
        path.write_text(
            f"scicat: {{host: http://127.0.0.1/api/v3}}\nkafka: {{topics: {topic}, bootstrap_servers: x}}\n"
        )
        facility = _Overwhelmed(CurrentConfiguration(load_configuration(path, {})), waiting=waiting)
        taken = [_cpu_seconds(lambda: _ticks(facility, instance, messages)) for _ in range(rounds)]
    yield Figure(
        f"sensor: {messages} messages to run requests",
        round(statistics.median(taken), 3),
        "s of CPU",
        at_most=3.0,
    )


def _ticks(facility: Facility, instance: dg.DagsterInstance, messages: int) -> None:
    cursor, requested = None, 0
    while requested < messages:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"facility": facility})
        with context:
            result = wrdn_sensor(UNPREFIXED)(context)
        if not isinstance(result, dg.SensorResult) or not result.run_requests:
            raise click.ClickException("The sensor requested nothing.")
        cursor, requested = result.cursor, requested + len(result.run_requests)


# --- The domain


def metadata(files: int = 100, rounds: int = 11) -> Iterator[Figure]:
    """A small file becomes the bodies of a dataset and its file list, without checksum and HTTP."""
    settings = _settings(compute_file_hash=False)
    with folder() as directory:
        path, schemas = _real_file(directory)
        for name, where, schema in (
            ("a real file", path, schemas),
            ("a demo file", demo_file(directory)[1], SCHEMAS_DIRECTORY),
        ):
            parts: dict[str, list[float]] = {}
            for _ in range(rounds):
                for part, seconds in _parts(where, schema, settings, files).items():
                    parts.setdefault(part, []).append(seconds / files * 1000)
            middle = {part: statistics.median(taken) for part, taken in parts.items()}
            yield Figure(
                f"domain: {name}, opened, extracted, described, built",
                round(statistics.median(map(sum, zip(*parts.values(), strict=True))), 2),
                "ms",
                at_most=20.0,
                details={part: round(milliseconds, 2) for part, milliseconds in middle.items()},
            )


def _parts(path: Path, schemas: Path, settings: Settings, files: int) -> dict[str, float]:
    """Seconds of each step for as many files; it is one file, again and again, and HDF5 is read elsewhere."""
    catalogue = Answers()
    file = look_at(path)
    (known,) = ingestion.extract_metadata(file, load_schemas(schemas), catalogue, settings)
    described = ingestion.describe_files(file, settings)
    steps: dict[str, Callable[[], object]] = {
        "look at it": lambda: look_at(path),
        "extract": lambda: ingestion.extract_metadata(file, load_schemas(schemas), catalogue, settings),
        "describe": lambda: ingestion.describe_files(file, settings),
        "build": lambda: ingestion.build(known, described, settings),
    }
    return {name: _seconds(partial(_repeat, step, files)) for name, step in steps.items()}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


def values(files: int = 100, rounds: int = 7) -> Iterator[Figure]:
    """What a schema wants of a small file, against a script that opens it and reads the same with h5py."""
    with folder() as directory:
        path = demo_file(directory)[1]
        file = look_at(path)
        schema = ingestion.schema_of(file, load_schemas(SCHEMAS_DIRECTORY), _settings())
        reads = tuple(dict.fromkeys(reads_of(schema)))
        alone = partial(_repeat, partial(read_values, file, reads), files)
        steps: dict[str, Callable[[], object]] = {
            "script": partial(_repeat, partial(_read_with_h5py, path, reads), files),
            "one child for many files": partial(_in_a_shared_child, alone),
            "a child for each": alone,
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                taken[name].append(_seconds(step) / files * 1000)
        middle = {name: statistics.median(each) for name, each in taken.items()}
        yield Figure(
            "domain: values of a demo file, one child for many files, against h5py in a script",
            round(_ratio(taken["one child for many files"], taken["script"]), 2),
            "times",
            at_most=1.0,
            details={f"{name}, ms": round(milliseconds, 2) for name, milliseconds in middle.items()},
        )


def _in_a_shared_child(work: Callable[[], object]) -> None:
    with isolation.shared_child():
        work()


def _read_with_h5py(path: Path, reads: Sequence[Read]) -> dict[str, Any]:
    """The values and units at paths without wildcards; what is not there is passed over."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        for read in reads:
            if read.path in file:
                found[read.path] = file[read.path][()], file[read.path].attrs.get("units")
    return found


# --- Previews


def preview(rounds: int = 15) -> Iterator[Figure]:
    """A picture of a file's default data: CPU time of the child process, as the service starts it."""
    ring = np.hypot(*np.ogrid[-2048:2048, -2048:2048])
    noise = np.random.default_rng(_SEED)
    detector = noise.poisson(2 + 2000 * np.exp(-(((ring - 900) / 60) ** 2))).astype(np.uint32)
    line = noise.poisson(1000 * np.exp(-(((np.arange(500) - 200) / 40) ** 2)) + 5)
    small = noise.poisson(20, (256, 256)).astype(np.uint32)
    compressed: dict[str, Any] = {"chunks": (256, 256), "compression": "gzip", "compression_opts": 1}
    cases: tuple[tuple[str, Any, dict[str, Any], float], ...] = (
        ("a line of 500 points", line, {}, 15.0),
        ("an image of 256 × 256", small, {}, 50.0),
        ("a detector of 4096 × 4096", detector, {}, 500.0),
        ("the same, compressed", detector, compressed, 500.0),
    )
    with folder() as directory:
        for what, values, storage, at_most in cases:
            path = _with_default_data(directory / "run.hdf", values, storage)
            taken = [_drawing_seconds(path) for _ in range(rounds)]
            yield Figure(
                f"preview: {what}",
                round(statistics.median(cpu for cpu, _ in taken) * 1000, 1),
                "ms of CPU",
                at_most=at_most,
                details={
                    "ms until it is there": round(statistics.median(wall for _, wall in taken) * 1000, 1)
                },
            )
        path, _ = _real_file(directory)
        taken = [_drawing_seconds(path) for _ in range(rounds)]
        middle = statistics.median(cpu for cpu, _ in taken) * 1000
        yield Figure("preview: a file without NXdata", round(middle, 1), "ms of CPU", at_most=10.0)


def _with_default_data(path: Path, values: Any, storage: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as content:
        content.attrs["default"] = "entry"
        data = content.create_group("entry/data")
        content["entry"].attrs["default"] = "data"
        data.attrs.update({"NX_class": "NXdata", "signal": "counts"})
        data.create_dataset("counts", data=values, **storage)
    return _old(path)


def _drawing_seconds(path: Path) -> tuple[float, float]:
    """CPU seconds of the child process, and seconds until its answer is here."""
    file, before, began = look_at(path), isolation.child_cpu_seconds(), time.perf_counter()
    drawn = draw(file, Wanted())
    if drawn.is_failure:
        raise click.ClickException(drawn.reason)
    return isolation.child_cpu_seconds() - before, time.perf_counter() - began


# --- Checksums


def checksum(megabytes: int = 256, rounds: int = 7) -> Iterator[Figure]:
    """How much of the speed of Python's own ``file_digest`` is left, and what blake3 gains."""
    with folder() as directory:
        path = directory / "run.hdf"
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(_MILLION))
        taken: dict[str, tuple[list[float], list[float]]] = {
            algorithm: ([], []) for algorithm in ("blake2b", "sha256", "blake3")
        }
        for _ in range(rounds):
            for algorithm, (ours, theirs) in taken.items():
                ours.append(_cpu_seconds(partial(_describe, path, algorithm)))
                theirs.append(_cpu_seconds(partial(_digest, path, algorithm)))
        for algorithm, (ours, theirs) in taken.items():
            yield Figure(
                f"checksum: {algorithm}, against hashlib.file_digest",
                _ratio(theirs, ours),
                "times as fast",
                at_least=0.95,
                details={"GB/s of CPU": round(megabytes / 1000 / statistics.median(ours), 2)},
            )
        yield Figure(
            "checksum: blake3 against blake2b",
            _ratio(taken["blake2b"][0], taken["blake3"][0]),
            "times as fast",
            at_least=3.0,
        )
        yield Figure(
            "checksum: bytes read per byte of the file",
            round(_bytes_read(lambda: _describe(path, "blake3")) / path.stat().st_size, 2),
            "",
            at_most=1.01,
        )


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(slower, faster, strict=True)), 2)


def _describe(path: Path, algorithm: str) -> str | None:
    return describe_file(path, FileHandlingSettings(file_hash_algorithm=algorithm)).data_file.chk


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        # It asks for hashlib's objects, and takes everything that is like them.
        digest: Any = blake3 if algorithm == "blake3" else algorithm
        return hashlib.file_digest(file, digest).hexdigest()


def _bytes_read(work: Callable[[], object]) -> int:
    before = _of_process("io", "rchar")
    work()
    return _of_process("io", "rchar") - before


def _of_process(table: str, name: str) -> int:
    """A number that Linux keeps about this process."""
    for line in Path("/proc/self", table).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise click.ClickException(f"This system does not say {name}.")


# --- Memory


def memory(files: int = 5000) -> Iterator[Figure]:
    """What a process keeps of the files that it registered, one after the other."""
    with folder() as directory, CatalogueServer(directory / "catalogue.sqlite") as server:
        seed(server.store)
        sizes = _in_a_process(register_many, directory, server.api_root, files)
        if server.store.count_origdatablocks() != files:
            raise click.ClickException("Not every file was registered.")
    yield Figure(
        f"memory: growth of a process from its {files // 5}th to its {files}th file",
        round(sizes[-1] - sizes[1], 1),
        "MB",
        at_most=5.0,
        details={"MB after each tenth": sizes},
    )


def register_many(directory: Path, api_root: str, files: int) -> list[float]:
    """Register files as a run's ops do; the size of this process in MB after each tenth of them."""
    account = next(found for found in demo_accounts() if INGESTOR_GROUP in found.groups)
    settings = Settings.model_validate(
        {"scicat": {"host": api_root, "username": account.username, "password": account.password}}
    )
    client = ScicatClient(settings.scicat)
    plan, template = demo_file(directory)
    content = template.read_bytes()
    sizes = []
    for number in range(1, files + 1):
        job_id = str(uuid.UUID(int=number))
        path = template.with_name(f"{number}.hdf")
        path.write_bytes(content.replace(plan.job_id.encode(), job_id.encode()))
        message = written_message(plan, path).replace(plan.job_id.encode(), job_id.encode())
        announced = read_message(KafkaMessage(Position("announcements", 0, number), message))
        if not isinstance(announced, FileWritten):
            raise click.ClickException("The message is not understood.")
        _register(look_at(_old(path)), announced, client, settings)
        path.unlink()
        if number % max(1, files // 10) == 0:
            sizes.append(_of_process("status", "VmRSS") / 1000)
    client.close()
    return sizes


def _register(file: CompleteFile, announced: FileWritten, client: ScicatClient, settings: Settings) -> None:
    (known,) = ingestion.extract_metadata(file, load_schemas(SCHEMAS_DIRECTORY), client, settings, announced)
    described = ingestion.describe_files(file, settings, announced)
    write_sidecars(described)
    register(ingestion.build(known, described, settings), client, settings.ingestion)


def huge(gigabytes: int = 100, hashed_gigabytes: float = 4) -> Iterator[Figure]:
    """The memory that huge files take, more than a small one does. They are sparse, and take no room."""
    with folder() as directory:
        _, small = demo_file(directory, 0)
        _, tail = demo_file(directory, 3)
        _lengthen(tail, gigabytes * 1000 * _MILLION)
        _, dataset = demo_file(directory, 6)
        with h5py.File(dataset, "r+") as content:
            content.create_dataset(
                "entry/huge", shape=(gigabytes * 1000 * _MILLION // 8,), dtype="f8", chunks=(1 << 17,)
            )
        _, hashed = demo_file(directory, 9)
        _lengthen(hashed, round(hashed_gigabytes * 1000 * _MILLION))
        usual = _in_a_process(peak_of_extraction, small)
        for what, peak in (
            (f"huge: a file of {gigabytes} GB", _in_a_process(peak_of_extraction, _old(tail))),
            (f"huge: a dataset of {gigabytes} GB", _in_a_process(peak_of_extraction, _old(dataset))),
            (f"huge: checksums of {hashed_gigabytes:g} GB", _in_a_process(peak_of_checksum, hashed)),
        ):
            yield Figure(
                what,
                round(peak - usual, 1),
                "MB more than a small file",
                at_most=5.0,
                details={"MB at most": peak, "MB at most with a small file": usual},
            )


def _lengthen(path: Path, size: int) -> None:
    """Make a file as long, with as little of it on the disk as is not yet refused as sparse."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, max(path.stat().st_size, size // 900))
    os.truncate(path, size)


def peak_of_extraction(path: Path) -> float:
    """The most memory that this process has had, in MB, after it extracted a file's metadata."""
    settings = _settings(compute_file_hash=False)
    file = look_at(path)
    (known,) = ingestion.extract_metadata(file, load_schemas(SCHEMAS_DIRECTORY), Answers(), settings)
    ingestion.build(known, ingestion.describe_files(file, settings), settings)
    # As a schema would that names it by mistake.
    with open_nexus(path) as nexus, suppress(LookupError, ValueError):
        nexus.read_all("/entry/huge")
    return _of_process("status", "VmHWM") / 1000


def peak_of_checksum(path: Path) -> float:
    """The most memory that this process has had, in MB, after it made checksums of a file."""
    for algorithm in ("blake2b", "blake3"):
        _describe(path, algorithm)
    return peak_of_extraction(path)


# --- Imports

_IMPORTS = {
    "what a warm worker, a run process and the sensor's process import": "scicat_dagster.definitions",
    "of that, Dagster": "dagster",
    "the domain, without Dagster": "scicat_dagster.dataset.ingestion",
    "the messages, without Dagster": "scicat_dagster.kafka.messages",
}
_ASK = """
import {module}, sys, time
size = next(line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
print(time.process_time(), len(sys.modules), size.split()[1])
"""


def imports(rounds: int = 7) -> Iterator[Figure]:
    """What has to be imported before there is anything to do."""
    with folder() as bytecode:
        python = _Python(bytecode)
        taken: dict[str, list[list[float]]] = {module: [] for module in ("sys", *_IMPORTS.values())}
        for module in taken:
            python.run("-c", _ASK.format(module=module))
        for _ in range(rounds):
            for module, found in taken.items():
                answer = python.run("-c", _ASK.format(module=module)).stdout
                found.append([float(number) for number in answer.split()])
        packages = python.packages("scicat_dagster.definitions")
    for what, module in _IMPORTS.items():
        seconds = statistics.median(
            ours[0] - nothing[0] for ours, nothing in zip(taken[module], taken["sys"], strict=True)
        )
        _, modules, size = taken[module][-1]
        details: dict[str, Any] = {"modules": int(modules), "MB": round(size / 1000)}
        if module == "scicat_dagster.definitions":
            details["ms by package, each without what it imports"] = packages
        yield Figure(f"imports: {what}", round(seconds, 2), "s of CPU", details=details)


@dataclass(frozen=True)
class _Python:
    """Python with compiled modules in a folder, as an installation has them."""

    bytecode: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A process of its own, and what it says."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return subprocess.run(  # noqa: S603
            [sys.executable, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=environment | {"PYTHONPYCACHEPREFIX": str(self.bytecode)},
        )

    def packages(self, module: str) -> dict[str, int]:
        """The six packages whose own code takes longest to be imported, in milliseconds."""
        packages: Counter[str] = Counter()
        for line in self.run("-X", "importtime", "-c", f"import {module}").stderr.splitlines():
            own, _, name = line.removeprefix("import time:").split("|")
            if own.strip().isdecimal():
                packages[name.strip().partition(".")[0]] += int(own)
        return {name: round(microseconds / 1000) for name, microseconds in packages.most_common(6)}


MEASUREMENTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "sensor": sensor,
    "metadata": metadata,
    "values": values,
    "preview": preview,
    "checksum": checksum,
    "memory": memory,
    "huge": huge,
    "imports": imports,
}


@click.command()
@click.argument("what", type=click.Choice(list(MEASUREMENTS)), required=False)
def main(what: str | None) -> None:
    """Measure one thing, or all, and print each figure as JSON, with the load of the machine before."""
    # What a tick says of itself.
    logging.disable(logging.INFO)
    for name in [what] if what else MEASUREMENTS:
        load = round(os.getloadavg()[0], 2)
        for figure in MEASUREMENTS[name]():
            click.echo(json.dumps(figure.as_json() | {"load before": load}))


if __name__ == "__main__":
    main()
