"""A NeXus (HDF5) file on disk: is it complete, and what values does it hold at a path.

The file is opened here, by its name and with our rights; libhdf5 reads it in a child process (``isolation``,
:mod:`scicat_dagster.hdf5`), because a damaged file can make it crash or loop indefinitely. What comes back is
plain Python (str, int, float, bool, lists of them). What the values *mean* belongs to
:mod:`scicat_dagster.schemas`; sizes and checksums of files to :mod:`scicat_dagster.files`.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.files import check_place, check_stored, who_forbids
from scicat_dagster.isolation.client import CrashedError, EndlessError, ask
from scicat_dagster.isolation.limits import LIMITS, Limits

QUIET_SECONDS = 0.5
"""A file modified more recently is looked at twice, this far apart, before it counts as complete."""

SETTLED_SECONDS = 60.0
"""A file that cannot be read as HDF5 and was not touched for so long will stay that way."""

Scalar = str | int | float | bool


class NotReadyError(TransientError):
    """The file is not there, or its writer is not done with it: only time helps."""


class FileChangedError(TransientError):
    """The file was modified after work on it had begun: everything measured so far must be done again."""


class CrashingFileError(PermanentError):
    """libhdf5 crashed on the file, also when it was tried once more."""


class EndlessFileError(PermanentError):
    """libhdf5 did not finish reading the file."""


class CompleteFile(BaseModel):
    """A file that was complete when it was looked at; ``modified_ns`` since 1970, ``size`` in bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True)
class NexusValue:
    """What a dataset of the file holds, and its ``units`` attribute (empty where it has none)."""

    value: Scalar | list[Any]
    unit: str = ""
    states_unit: bool = field(default=False, compare=False)
    """Whether the file states the unit, which may be the empty one."""
    unit_mistake: str = field(default="", compare=False)
    """Why the ``units`` attribute cannot be used, where that is so."""


class Reader(Protocol):
    """The values of a file, by absolute HDF5 paths.

    A component with ``*`` is searched as a regular expression in the names.
    """

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        """The one value at a path: a scalar, or an array of one element.

        Parameters
        ----------
        as_text
            Numbers of less than double precision are the text of their own precision: 22.249, and not
            22.249000549316406.

        Raises
        ------
        LookupError
            There is nothing at the path, several values, or an array.
        ValueError
            The value is of a kind or size that metadata cannot hold.
        TransientError
            The storage failed.
        """
        ...

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        """Every value at a path, in file order, as a list; nested where one dataset has several dimensions.

        The list is empty where nothing matches a path with ``*``, and for an empty dataset. The unit is the
        common one, or empty where the datasets differ. Errors and ``as_text`` as for :meth:`read_one`.
        """
        ...


class Read(BaseModel):
    """A question about a file: one value at a path, or all of them."""

    model_config = ConfigDict(frozen=True)

    path: str
    all: bool = False
    as_text: bool = False


class Questions(BaseModel):
    """What the child is asked. The path is for its sentences only; the file itself is open already."""

    model_config = ConfigDict(frozen=True)

    path: str
    reads: tuple[Read, ...] = ()


class ReadAnswer(BaseModel):
    """The answer to one question: a value, or why there is none."""

    # NaN and infinities are values.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    value: JsonValue = None
    unit: str = ""
    states_unit: bool = False
    unit_mistake: str = ""
    error: Literal["", "lookup", "value"] = ""
    reason: str = ""


class Failure(BaseModel):
    """Why nothing can be read of a file."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["not ready", "transient", "permanent"]
    what: str
    remedy: str

    @classmethod
    def of(cls, error: IngestionError) -> Self:
        """A failure of this project as a message."""
        if isinstance(error, NotReadyError):
            return cls(kind="not ready", what=error.what, remedy=error.remedy)
        kind: Literal["transient", "permanent"] = (
            "transient" if isinstance(error, TransientError) else "permanent"
        )
        return cls(kind=kind, what=error.what, remedy=error.remedy)

    def error(self) -> IngestionError:
        """The failure that this is about."""
        kinds: dict[str, type[IngestionError]] = {
            "not ready": NotReadyError,
            "transient": TransientError,
            "permanent": PermanentError,
        }
        return kinds[self.kind](self.what, remedy=self.remedy)


class Answer(BaseModel):
    """What the child answers."""

    model_config = ConfigDict(frozen=True)

    values: tuple[ReadAnswer, ...] = ()
    failure: Failure | None = None


class Contents:
    """A :class:`Reader` of values that were read before."""

    def __init__(self, answers: dict[Read, ReadAnswer]) -> None:
        self._answers = answers

    def read_one(self, path: str, *, as_text: bool = False) -> NexusValue:
        """See :meth:`Reader.read_one`."""
        return self._value(Read(path=path, as_text=as_text))

    def read_all(self, path: str, *, as_text: bool = False) -> NexusValue:
        """See :meth:`Reader.read_all`."""
        return self._value(Read(path=path, all=True, as_text=as_text))

    def _value(self, read: Read) -> NexusValue:
        answer = self._answers[read]
        if answer.error == "lookup":
            raise LookupError(answer.reason)
        if answer.error:
            raise ValueError(answer.reason)
        value: Any = answer.value
        return NexusValue(
            value, answer.unit, states_unit=answer.states_unit, unit_mistake=answer.unit_mistake
        )


def wait_until_complete(
    path: Path,
    delays: Sequence[float],
    sleep: Callable[[float], None] = time.sleep,
    *,
    data_directory: str = "",
    limits: Limits = LIMITS,
) -> CompleteFile:
    """Look at a file until it is complete: it opens as HDF5, and its size and modification time are stable.

    The file writer announces a file *before* it closes it, so the first look may come too early. ``delays``
    are the seconds between the looks; there is one more look than there are delays. ``data_directory`` is the
    folder that the file must be in, wherever symbolic links lead; empty: anywhere.

    Raises
    ------
    NotReadyError
        It is not there, is locked, is being written or cannot be read yet.
    TransientError
        The storage failed.
    PermanentError
        It is no regular file, must not be read, lies outside the data directory, makes libhdf5 crash or loop,
        or is broken and has not changed for a minute.
    """
    for delay in delays:
        try:
            return look_at(path, sleep, data_directory=data_directory, limits=limits)
        except TransientError:
            sleep(delay)
    return look_at(path, sleep, data_directory=data_directory, limits=limits)


def look_at(
    path: Path,
    sleep: Callable[[float], None] = time.sleep,
    *,
    data_directory: str = "",
    limits: Limits = LIMITS,
) -> CompleteFile:
    """One look at a file; see :func:`wait_until_complete`."""
    before = _status(path)
    if time.time() - before.st_mtime < QUIET_SECONDS:
        sleep(QUIET_SECONDS)
    with _opened(path, data_directory) as file:
        _asked(path, file, (), limits)
    found = _complete_file(path, _status(path))
    if found != _complete_file(path, before):
        raise NotReadyError(
            f"{path} is still being written.",
            remedy="Nothing to do while the file writer is busy with it; it is tried again.",
        )
    return found


def read_values(
    file: CompleteFile, reads: Iterable[Read], *, data_directory: str = "", limits: Limits = LIMITS
) -> Contents:
    """The values of a complete file that are asked for, all read in one child process.

    Raises
    ------
    FileChangedError
        It is another file meanwhile.
    TransientError
        The storage failed.
    PermanentError
        As for :func:`wait_until_complete`.
    """
    path, asked = Path(file.path), tuple(dict.fromkeys(reads))
    with _opened(path, data_directory) as descriptor:
        if _complete_file(path, os.fstat(descriptor)) != file:
            raise _changed(file)
        answer = _asked(path, descriptor, asked, limits)
    return Contents(dict(zip(asked, answer.values, strict=True)))


def check_unchanged(file: CompleteFile) -> None:
    """Make sure that a file is still the one that was found complete.

    Raises
    ------
    FileChangedError
        Its size, modification time or identity is another.
    """
    if _complete_file(Path(file.path), _status(Path(file.path))) != file:
        raise _changed(file)


def _changed(file: CompleteFile) -> FileChangedError:
    return FileChangedError(
        f"{file.path} was changed after it had been found complete.",
        remedy="The run is repeated from its beginning; re-execute all its ops if you do it by hand.",
    )


@contextmanager
def _opened(path: Path, data_directory: str) -> Iterator[int]:
    """A descriptor of a regular file that we may read."""
    try:
        # A pipe that took the file's place would be waited for.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise why_not_opened(path, error) from error
    try:
        status = os.fstat(file)
        _check_regular(path, status)
        check_place(path, status, data_directory)
        check_stored(path, status)
        yield file
    finally:
        os.close(file)


def _asked(path: Path, file: int, reads: tuple[Read, ...], limits: Limits) -> Answer:
    """The child's answer about an open file."""
    request = Questions(path=str(path), reads=reads).model_dump_json().encode()
    before = os.fstat(file)
    kind: type[PermanentError] = PermanentError
    try:
        answer = Answer.model_validate_json(ask("hdf5", request, file=file, limits=limits))
        if answer.failure is None and len(answer.values) != len(reads):
            raise ValueError
    except CrashedError as error:
        kind = CrashingFileError
        what = f"The HDF5 library crashed twice while it read {path} ({error})."
    except EndlessError as error:
        kind = EndlessFileError
        what = f"The HDF5 library did not finish reading {path} within {error.seconds:g} s."
    except ValueError:
        what = f"The HDF5 library gave no usable answer about {path}."
    else:
        if answer.failure is not None:
            raise answer.failure.error()
        return answer
    if _complete_file(path, os.fstat(file)) != _complete_file(path, before):
        raise NotReadyError(what, remedy="It is tried again, because the file is still being written.")
    raise kind(
        what,
        remedy="The file is damaged: compare it with the file writer's copy, put a sound file in place, then "
        "re-execute the run.",
    )


def _complete_file(path: Path, status: os.stat_result) -> CompleteFile:
    return CompleteFile(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _status(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except OSError as error:
        raise why_not_opened(path, error) from error
    _check_regular(path, status)
    return status


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PermanentError(f"{path} is no regular file.", remedy="Announce the NeXus file itself.")


def why_not_opened(path: Path, error: OSError, text: str = "") -> TransientError | PermanentError:
    """Why a file cannot be opened, from the system's error or libhdf5's; ``text`` is its text."""
    text = text or str(error)
    if isinstance(error, FileNotFoundError):
        what = f"{path} is a symbolic link to nothing." if path.is_symlink() else f"{path} is not there."
        return NotReadyError(
            what, remedy="See that the storage is mounted here and that the file writer wrote it."
        )
    if isinstance(error, PermissionError):
        return _forbidden(path)
    if isinstance(error, BlockingIOError) or "unable to lock" in text or "already open" in text:
        return NotReadyError(
            f"{path} is still open for writing.", remedy="Nothing to do while it is being written."
        )
    if re.search(r"errno = \d+", text) or error.errno is not None:
        return TransientError(
            f"{path} cannot be opened: {text}.", remedy="See that the storage is mounted and healthy."
        )
    return why_broken(path, text)


def _forbidden(path: Path) -> TransientError | PermanentError:
    place = who_forbids(path)
    what = f"No right to read {path}."
    if place == path and time.time() - path.stat().st_mtime < SETTLED_SECONDS:
        return NotReadyError(
            what, remedy="It is tried again, because its writer may give that right when it is done."
        )
    return PermanentError(
        what,
        remedy=f"Give the account that runs Dagster the right to read {place}, then re-execute the run.",
    )


def why_broken(path: Path, reason: str) -> TransientError | PermanentError:
    """Why a file that is there is not one that can be read."""
    status = _status(path)
    words = "is empty" if status.st_size == 0 else "is no complete HDF5 file"
    what = f"{path} {words} ({reason})."
    if time.time() - status.st_mtime < SETTLED_SECONDS:
        return NotReadyError(what, remedy="It is tried again, because it was written only just now.")
    return PermanentError(
        what, remedy="Look at the file writer's log; put the right file in place, then re-execute the run."
    )
