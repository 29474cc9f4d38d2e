"""Damaged and malicious files, read as the service reads them: ``python -m benchmarks.hostile``.

Mutated copies of three sample files, every lost 512-byte sector of them, and files that were made to cost
much go through extraction and building, by several worker processes, with sound files in between. What became
of them is printed as JSON; the exit code is 1 where something happened that must not.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import click
import h5py
import numpy as np

from benchmarks.domain import Answers, demo_file
from scicat_dagster.config.models import Settings
from scicat_dagster.dataset import ingestion
from scicat_dagster.demo.facility import SCHEMAS_DIRECTORY
from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.reading import CrashingFileError, EndlessFileError, Read, look_at, read_values
from scicat_dagster.isolation import LIMITS, Limits, largest_child_bytes
from scicat_dagster.schemas.loading import SchemaCollection, load_schemas

SAMPLES = ("small-coda.hdf", "demo.hdf", "newest-format.hdf")
SECTOR = 512

Outcome = Literal["built", "permanent error", "crashed", "endless", "transient error", "undeclared exception"]

_TEST_DATA = Path(__file__).parents[1] / "tests" / "data"
_EVERYTHING = [Read(path="/*" * depth, all=True) for depth in range(1, 7)]
_LONG_AGO = 1_700_000_000
_SOUND_EVERY = 50
_TOO_SLOW_SECONDS = 90
_TOO_LARGE_WORKER = 1_000_000_000
_TOO_LARGE_CHILD = LIMITS.memory_bytes + 200_000_000
"""What it may take, and what it is forked with."""


@dataclass(frozen=True)
class Case:
    """A file to be made: a sample and what is done to it."""

    kind: Literal["sound", "sector", "mutated", "bomb"]
    sample: str
    number: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """What became of a file."""

    case: Case
    outcome: Outcome
    seconds: float
    words: str = ""
    child_bytes: int = 0
    worker_bytes: int = 0


@dataclass
class Summary:
    """What became of all files."""

    judged: list[Judged] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """What is printed."""
        slowest = max(self.judged, key=lambda one: one.seconds)
        return {
            kind: dict(Counter(one.outcome for one in self.judged if one.case.kind == kind))
            for kind in ("sound", "sector", "mutated", "bomb")
        } | {
            "slowest": {"seconds": round(slowest.seconds, 2), "case": str(slowest.case)},
            "slowest sound file in seconds": round(
                max((one.seconds for one in self.judged if one.case.kind == "sound"), default=0.0), 2
            ),
            "MB of the largest worker": max(one.worker_bytes for one in self.judged) // 1_000_000,
            "MB of the largest child": max(one.child_bytes for one in self.judged) // 1_000_000,
            "must not be": [f"{one.case}: {one.outcome}: {one.words}" for one in self.mistakes()],
        }

    def mistakes(self) -> list[Judged]:
        """What must not be, whatever the file is."""
        return [
            one
            for one in self.judged
            if one.outcome in ("transient error", "undeclared exception")
            or (one.case.kind == "sound" and one.outcome != "built")
            or one.seconds > _TOO_SLOW_SECONDS
            or one.worker_bytes > _TOO_LARGE_WORKER
            or one.child_bytes > _TOO_LARGE_CHILD
        ]


def cases(files: int, seed: int, samples: Iterable[str] = SAMPLES) -> Iterator[Case]:
    """Every lost sector, the bombs, and so many mutated files, with sound ones in between."""
    hostile = [
        *(Case("sector", name, number) for name in samples for number in range(_sectors(name))),
        *(Case("bomb", name) for name in BOMBS),
        *(Case("mutated", SAMPLES[number % len(SAMPLES)], number, seed) for number in range(files)),
    ]
    for number, case in enumerate(hostile):
        if number % _SOUND_EVERY == 0:
            yield Case("sound", SAMPLES[number // _SOUND_EVERY % len(SAMPLES)])
        yield case


def judge(case: Case, limits: Limits = LIMITS) -> Judged:
    """Make a file and read it as a run does: look at it, extract, describe, build."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        # Where the demo's schema looks for files.
        path = Path(name) / "odin" / case.sample
        path.parent.mkdir()
        _make(case, path)
        os.utime(path, (_LONG_AGO, _LONG_AGO))
        _forget_peak_of_this_process()
        began = time.monotonic()
        outcome, words = _read(path, case, limits)
        return Judged(
            case, outcome, time.monotonic() - began, words, largest_child_bytes(), _peak_of_this_process()
        )


def _read(path: Path, case: Case, limits: Limits) -> tuple[Outcome, str]:
    settings = Settings.model_validate(
        {
            "scicat": {"host": "http://127.0.0.1/api/v3"},
            "ingestion": {"file_handling": {"compute_file_hash": False}},
        }
    )
    try:
        file = look_at(path, limits=limits)
        read_values(file, _EVERYTHING, limits=limits)
        (metadata,) = ingestion.extract_metadata(
            file, _schemas(case.sample), Answers(), settings, limits=limits
        )
        ingestion.build(metadata, ingestion.describe_files(file, settings), settings)
    except CrashingFileError as error:
        return "crashed", str(error)
    except EndlessFileError as error:
        return "endless", str(error)
    except PermanentError as error:
        return "permanent error", str(error)
    except TransientError as error:
        return "transient error", str(error)
    except Exception as error:  # noqa: BLE001 - that there is none is what is measured
        return "undeclared exception", repr(error)
    return "built", ""


# --- The files


def _make(case: Case, path: Path) -> None:
    if case.kind == "bomb":
        # Making one takes the memory that reading it must not.
        made = multiprocessing.get_context("spawn").Process(target=BOMBS[case.sample], args=(path,))
        made.start()
        made.join()
        return
    content = bytearray(_sample(case.sample))
    if case.kind == "sector":
        start = case.number * SECTOR
        content[start : start + SECTOR] = bytes(len(content[start : start + SECTOR]))
    if case.kind == "mutated":
        _mutate(content, random.Random(f"{case.seed}/{case.number}"))  # noqa: S311 - it shall repeat itself
    path.write_bytes(content)


def _mutate(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        # Most of a large file is data; what leads through it is at its beginning.
        place = chance.randrange(min(len(content), chance.choice((2048, 16384, len(content)))))
        match chance.randrange(5):
            case 0:
                content[place] = chance.randrange(256)
            case 1:
                content[place] ^= 1 << chance.randrange(8)
            case 2:
                content[place : place + 8] = chance.choice((bytes(8), b"\xff" * 8, chance.randbytes(8)))[
                    : len(content) - place
                ]
            case 3:
                length = chance.choice((16, 64, 512))
                other = chance.randrange(len(content))
                content[place : place + length] = content[other : other + length]
            case _:
                length = len(content[place : place + 64])
                content[place : place + length] = bytes(length)


@cache
def _sample(name: str) -> bytes:
    if name == "small-coda.hdf":
        return (_TEST_DATA / name).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        if name == "demo.hdf":
            return demo_file(Path(folder))[1].read_bytes()
        path = Path(folder) / name
        _write_newest(path)
        return path.read_bytes()


def _sectors(name: str) -> int:
    return -(-len(_sample(name)) // SECTOR)


def _write_newest(path: Path) -> None:
    """All that libhdf5 can: the newest format, dense attributes and links, chunks, filters, kinds of text."""
    with h5py.File(path, "w", libver="latest") as file:
        entry = file.create_group("entry", track_order=True)
        for name in ("title", "entry_identifier", "entry_identifier_uuid", "experiment_identifier"):
            entry[name] = "512017"
        for name in ("start_time", "end_time"):
            entry[name] = "2026-03-02T08:00:34Z"
        entry["fixed"] = np.bytes_(b"fixed")
        entry["texts"] = ["one", "two", "three"]
        entry["instrument/name"] = "ODIN"
        entry["sample/name"] = "Pouch cell B"
        entry["soft"] = h5py.SoftLink("/entry/title")
        for number in range(40):
            entry[f"log/value{number}"] = float(number)
            entry[f"log/value{number}"].attrs["units"] = "mm"
            entry.attrs[f"attribute{number}"] = "x" * 20
        chunked = {"chunks": (16,), "compression": "gzip", "shuffle": True, "fletcher32": True}
        entry.create_dataset("chunked", data=np.arange(200.0), maxshape=(None,), **chunked)
        entry.create_dataset("two", data=np.arange(64).reshape(8, 8), chunks=(4, 4), maxshape=(None, None))


@cache
def _schemas(sample: str) -> SchemaCollection:
    return load_schemas(_TEST_DATA if sample == "small-coda.hdf" else SCHEMAS_DIRECTORY)


def _inflating(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("bomb", shape=(1,), chunks=(1,), dtype="f8", compression="gzip")
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(1_000_000_000), 1))


def _inflating_within_its_size(path: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "bomb", shape=(1,), maxshape=(None,), chunks=(1 << 19,), dtype="f8", compression="gzip"
        )
        dataset.id.write_direct_chunk((0,), zlib.compress(bytes(3_000_000_000), 1)[: 1 << 30])


def _large_chunks(path: Path) -> None:
    zeros = zlib.compress(bytes(8 * (31 << 20)), 1)
    with h5py.File(path, "w") as file:
        for number in range(40):
            dataset = file.create_dataset(
                f"slow{number}",
                shape=(1,),
                maxshape=(None,),
                chunks=(31 << 20,),
                dtype="f8",
                compression="gzip",
            )
            dataset.id.write_direct_chunk((0,), zeros)


def _long_text(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["text"] = "x" * 500_000_000


def _long_unit(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["value"] = 1.0
        file["value"].attrs.create("units", "m" * 300_000_000, dtype=h5py.string_dtype())


def _loops(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(300):
            file[f"loop{number}"] = file["/"]


def _many_links(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["value"] = 1.0
        for number in range(300_000):
            file.id.links.create_soft(b"link%d" % number, b"/value")


def _sparse(path: Path) -> None:
    path.write_bytes(_sample("small-coda.hdf"))
    os.truncate(path, 30_000_000_000)


BOMBS: dict[str, Callable[[Path], None]] = {
    "a chunk of 8 bytes that inflates to 1 GB": _inflating,
    "a chunk of 4 MB that inflates to 3 GB": _inflating_within_its_size,
    "40 values in chunks of 248 MB": _large_chunks,
    "a text of 500 MB": _long_text,
    "a unit of 300 MB": _long_unit,
    "300 links of a group to itself": _loops,
    "300,000 links": _many_links,
    "a sparse file of 30 GB": _sparse,
}


def _forget_peak_of_this_process() -> None:
    # What it did before is not what the file cost. Source: proc_pid_clear_refs(5).
    Path("/proc/self/clear_refs").write_text("5")


def _peak_of_this_process() -> int:
    # Not getrusage's, which counts also what this process was before it became a worker.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@click.command()
@click.option("--files", default=1000, help="Mutated files.")
@click.option("--seed", default=0, help="Of their mutations.")
@click.option("--workers", default=3, help="Processes that read them.")
@click.option("--seconds", default=LIMITS.seconds, help="The deadline of a child.")
def main(files: int, seed: int, workers: int, seconds: float) -> None:
    """Read hostile files and print what became of them."""
    limits = LIMITS.model_copy(update={"seconds": seconds})
    found = Summary()
    began = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for judged in pool.map(judge, *zip(*((case, limits) for case in cases(files, seed)), strict=True)):
            found.judged.append(judged)
    # A worker that is lost ends the pool with an exception.
    printed = {"files": len(found.judged), "workers lost": 0, **found.as_json()}
    click.echo(json.dumps(printed | {"seconds": round(time.monotonic() - began)}, indent=2))
    sys.exit(1 if found.mistakes() else 0)


if __name__ == "__main__":
    main()
