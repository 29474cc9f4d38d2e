"""A facility's file writer: it writes NeXus files, announces them on Kafka, and behaves as the real ones do.

As they do, it announces a file with a ``wrdn`` message *before* it closes it: whoever opens the file at once
finds it locked and incomplete. Between these messages it can put what else a consumer meets in real topics:
other schemas, a message twice, a broken one, a job that failed. Not here: what is measured
(``facility.measurement``), how the files look inside (``facility.nexus``), the broker (``broker``).
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
from confluent_kafka import KafkaException, Producer
from streaming_data_types import serialise_answ, serialise_pl72, serialise_wrdn, serialise_x5f2
from streaming_data_types.action_response_answ import ActionOutcome, ActionType

from scicat_dagster.demo.measurement import PlannedFile, next_attempt, plan_file
from scicat_dagster.demo.nexus import link_frames, write_beginning, write_end, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Announcer",
    "Delivered",
    "DeliveryError",
    "Extras",
    "MessageKind",
    "PlannedFile",
    "Summary",
    "broken_message",
    "failure_message",
    "foreign_messages",
    "plan_file",
    "write_and_announce",
    "write_files",
    "write_past_file",
    "write_unended",
    "written_message",
]

READ_ONLY = 0o444
"""File mode of a finished file."""

_BYTES_OF_A_BROKEN_MESSAGE = 40


class MessageKind(enum.StrEnum):
    """What a message is, for those who count."""

    WRITTEN = "wrdn"
    DUPLICATE = "wrdn again"
    FAILED = "wrdn with an error"
    BROKEN = "wrdn cut off"
    RUN_START = "pl72"
    STATUS = "x5f2"
    ANSWER = "answ"


class DeliveryError(Exception):
    """The broker did not confirm a message in time, or refused it; the text says which message and why."""


@dataclass(frozen=True)
class Delivered:
    """Where the broker put a message."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Extras:
    """Which messages :func:`write_files` sends beside one ``wrdn`` per file."""

    foreign: bool = True
    """Around each file a run start, a status and an answer: messages of other schemas."""
    duplicate: bool = False
    """The first file's ``wrdn`` once more, at the very end."""
    broken: bool = False
    """The first bytes of the first file's ``wrdn`` without the rest, right after that file."""
    failed: bool = False
    """The announcement of a job that failed and left no file, after the first file."""


@dataclass(frozen=True)
class Summary:
    """What a file writer did."""

    files: tuple[Path, ...]
    """The finished files in the order of their announcement."""
    messages: dict[MessageKind, int]
    """Number of confirmed messages of each kind that occurred."""

    @property
    def total(self) -> int:
        """Number of confirmed messages of all kinds."""
        return sum(self.messages.values())


class Announcer:
    """Sends messages one by one and returns only when the broker has confirmed each.

    Parameters
    ----------
    bootstrap_servers
        ``host:port``, or several separated by commas.
    timeout
        Seconds to wait for the broker's word on a message.
    """

    def __init__(self, bootstrap_servers: str, *, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._errors: list[str] = []
        self._sent: Counter[MessageKind] = Counter()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "message.timeout.ms": int(timeout * 1000),
                "error_cb": lambda error: self._errors.append(error.str()),
                # The broker's absence is told by DeliveryError, not by lines on stderr.
                "log_level": 0,
            }
        )

    @property
    def sent(self) -> dict[MessageKind, int]:
        """Number of confirmed messages of each kind so far."""
        return dict(self._sent)

    def send(self, topic: str, kind: MessageKind, value: bytes, *, key: str) -> Delivered:
        """Put one message on the topic; messages with equal keys go to one partition.

        Raises
        ------
        DeliveryError
            Not confirmed within the timeout, or refused.
        """
        outcomes: list[tuple[Any, Any]] = []
        self._errors.clear()
        try:
            self._producer.produce(
                topic, value, key=key, on_delivery=lambda *outcome: outcomes.append(outcome)
            )
        except KafkaException as error:
            raise DeliveryError(f"Message {kind} for {topic} was refused: {error.args[0].str()}.") from error
        # The message's own timeout ends first, so that the reason comes from the client.
        self._producer.flush(self._timeout + 5.0)
        if not outcomes:
            raise DeliveryError(f"Message {kind} for {topic}: no answer within {self._timeout:g} s.")
        failure, message = outcomes[0]
        if failure is not None:
            reasons = "; ".join(dict.fromkeys([failure.str(), *self._errors]))
            raise DeliveryError(f"Message {kind} for {topic} was not delivered: {reasons}.")
        self._sent[kind] += 1
        return Delivered(message.topic(), message.partition(), message.offset())


def written_message(plan: PlannedFile, path: Path) -> bytes:
    """The ``wrdn`` that announces the file at ``path``."""
    metadata = {
        "instrument": plan.proposal.instrument.name,
        "proposal_id": plan.proposal.proposal_id,
        "run_number": plan.run_number,
    }
    return _bytes(
        serialise_wrdn(_service_id(plan), plan.job_id, False, str(path), json.dumps(metadata))  # noqa: FBT003
    )


def failure_message(plan: PlannedFile, path: Path) -> bytes:
    """The ``wrdn`` of a job that failed: it names the path that holds no complete file, and says why."""
    reason = "Could not write the event data: no space left on device"
    return _bytes(serialise_wrdn(_service_id(plan), plan.job_id, True, str(path), None, reason))  # noqa: FBT003


def broken_message(plan: PlannedFile, path: Path) -> bytes:
    """The beginning of a ``wrdn``: it carries the schema's id, and cannot be decoded."""
    return written_message(plan, path)[:_BYTES_OF_A_BROKEN_MESSAGE]


def foreign_messages(plan: PlannedFile, path: Path) -> dict[MessageKind, bytes]:
    """The messages of other schemas that accompany a file, in the order of a real topic.

    ``RUN_START`` and ``STATUS`` come before the file's ``wrdn``, ``ANSWER`` after it.
    """
    instrument = plan.proposal.instrument
    structure = {"children": [{"name": "entry", "type": "group", "attributes": {"NX_class": "NXentry"}}]}
    status = {"state": "writing", "job_id": plan.job_id, "file_being_written": str(path)}
    return {
        MessageKind.RUN_START: _bytes(
            serialise_pl72(
                job_id=plan.job_id,
                filename=str(path),
                start_time=plan.start_time,
                stop_time=plan.end_time,
                run_name=str(plan.run_number),
                nexus_structure=json.dumps(structure),
                service_id=_service_id(plan),
                instrument_name=instrument.name,
                broker="127.0.0.1",
                control_topic=instrument.topic,
            )
        ),
        MessageKind.STATUS: _bytes(
            serialise_x5f2(
                "demo file writer",
                "1.0",
                _service_id(plan),
                "filewriter.example.org",
                1000 + plan.index,
                1000,
                json.dumps(status),
            )
        ),
        MessageKind.ANSWER: _bytes(
            serialise_answ(
                _service_id(plan),
                plan.job_id,
                f"stop-{plan.run_number}",
                ActionType.SetStopTime,
                ActionOutcome.Success,
                "Stop time was set.",
                200,
                plan.end_time,
            )
        ),
    }


def write_and_announce(
    plan: PlannedFile,
    data_directory: Path,
    announcer: Announcer,
    *,
    while_measuring: Callable[[Path], None] | None = None,
    while_open: Callable[[Path], None] | None = None,
) -> Path:
    """Write one file, announce it while it is still open, complete it, and make it read-only.

    The frames of a tomography are written before, into files of their own.

    As long as it is measured anybody may read it: the file is in HDF5's mode for one writer and many readers.

    Parameters
    ----------
    plan
        What to write.
    data_directory
        Absolute path below which the file goes; missing folders are created.
    announcer
        How the ``wrdn`` reaches the instrument's topic.
    while_measuring
        Called with the file's path while it may be read, before it is announced.
    while_open
        Called with the file's path after the broker has the message and before the file is complete. A
        demonstration waits in it, a test looks around.

    Returns
    -------
    Path
        The finished file, mode 0444.

    Raises
    ------
    FileExistsError
        There is a file of that run already; files are never overwritten.
    DeliveryError
        The announcement was not delivered. The incomplete file stays, as that of a crashed file writer does.
    """
    path = plan.path(data_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = plan.frame_paths(data_directory)
    for frame, angle in zip(frames, plan.rotation_angles, strict=True):
        with h5py.File(frame, "x") as file:
            write_frame(file, plan, angle)
        frame.chmod(READ_ONLY)
    _measure(path, plan, while_measuring)
    with h5py.File(path, "r+", libver="latest") as file:
        link_frames(file, plan, (frame.name for frame in frames))
        announcer.send(
            plan.proposal.instrument.topic, MessageKind.WRITTEN, written_message(plan, path), key=plan.job_id
        )
        if while_open is not None:
            while_open(path)
        write_end(file, plan)
    path.chmod(READ_ONLY)
    return path


def write_files(
    plans: Iterable[PlannedFile],
    data_directory: Path,
    announcer: Announcer,
    *,
    extras: Extras = Extras(),
    while_measuring: Callable[[Path], None] | None = None,
    while_open: Callable[[Path], None] | None = None,
) -> Summary:
    """Write and announce several files one after the other, with ``extras`` among the announcements.

    Messages about one file have its job id as key and thus keep their order. Arguments and errors otherwise
    are those of :func:`write_and_announce`. The summary counts the messages of this call only.
    """
    before = Counter(announcer.sent)
    written: list[tuple[PlannedFile, Path]] = []
    for plan in plans:
        topic = plan.proposal.instrument.topic
        path = plan.path(data_directory)
        foreign = foreign_messages(plan, path) if extras.foreign else {}
        for kind, message in foreign.items():
            if kind is not MessageKind.ANSWER:
                announcer.send(topic, kind, message, key=plan.job_id)
        write_and_announce(
            plan, data_directory, announcer, while_measuring=while_measuring, while_open=while_open
        )
        if MessageKind.ANSWER in foreign:
            announcer.send(topic, MessageKind.ANSWER, foreign[MessageKind.ANSWER], key=plan.job_id)
        if not written:
            _announce_mishaps(plan, data_directory, announcer, extras)
        written.append((plan, path))
    if written and extras.duplicate:
        plan, path = written[0]
        announcer.send(
            plan.proposal.instrument.topic,
            MessageKind.DUPLICATE,
            written_message(plan, path),
            key=plan.job_id,
        )
    return Summary(files=tuple(path for _, path in written), messages=dict(Counter(announcer.sent) - before))


def write_unended(plan: PlannedFile, data_directory: Path, announcer: Announcer) -> Path:
    """Announce a run that starts, and crash while it is measured: its file stays as it is, unannounced."""
    path = plan.path(data_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    start = foreign_messages(plan, path)[MessageKind.RUN_START]
    announcer.send(plan.proposal.instrument.topic, MessageKind.RUN_START, start, key=plan.job_id)
    _measure(path, plan)
    return path


def _measure(path: Path, plan: PlannedFile, while_measuring: Callable[[Path], None] | None = None) -> None:
    """Write what is known from the start, and let others read it while the measurement goes on."""
    with h5py.File(path, "x", libver="latest") as file:
        write_beginning(file, plan)
        file.swmr_mode = True
        if while_measuring is not None:
            while_measuring(path)


def write_past_file(plan: PlannedFile, data_directory: Path, *, age_seconds: float = 3600.0) -> Path:
    """Write a file as if it had been finished so long ago, and announce nothing."""
    path = plan.path(data_directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "x") as content:
        write_beginning(content, plan)
        write_end(content, plan)
    finished = time.time() - age_seconds
    os.utime(path, (finished, finished))
    path.chmod(READ_ONLY)
    return path


def _announce_mishaps(plan: PlannedFile, data_directory: Path, announcer: Announcer, extras: Extras) -> None:
    topic = plan.proposal.instrument.topic
    if extras.broken:
        message = broken_message(plan, plan.path(data_directory))
        announcer.send(topic, MessageKind.BROKEN, message, key=plan.job_id)
    if extras.failed:
        failed = next_attempt(plan)
        message = failure_message(failed, failed.path(data_directory))
        announcer.send(topic, MessageKind.FAILED, message, key=failed.job_id)


def _service_id(plan: PlannedFile) -> str:
    return f"{plan.proposal.instrument.directory}_filewriter_1"


def _bytes(message: bytes | bytearray) -> bytes:
    # flatbuffers builds a bytearray, which a Kafka producer does not take.
    return bytes(message)
