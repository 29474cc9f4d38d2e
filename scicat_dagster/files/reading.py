"""Reading values of a NeXus file in isolation, and the messages that travel to and from the child process.

The child's side is ``hdf5``; what a child may use is said in :mod:`scicat_dagster.isolation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.files.access import NotReadyError, opened_file, status_of, status_of_open
from scicat_dagster.files.identity import CompleteFile, complete_file, file_changed
from scicat_dagster.files.linked_files import FollowedFiles
from scicat_dagster.files.values import Member, NexusValue
from scicat_dagster.isolation import LIMITS, CrashedError, EndlessError, Limits, ask

QUIET_SECONDS = 0.5
"""A file modified more recently is looked at twice, this far apart, before it counts as complete."""


class CrashingFileError(PermanentError):
    """libhdf5 crashed on the file, also when it was tried once more."""


class EndlessFileError(PermanentError):
    """libhdf5 did not finish reading the file."""


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
    asks_for_members: bool = False
    asks_for_linked_files: bool = False
    asks_for_entries: bool = False
    linked: dict[str, int | str] = {}
    """For the files that links may lead to, the place of each among the descriptors, or why it is not."""
    is_growing: bool = False
    """Whether somebody may be writing the file while it is read."""


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
    lacking: tuple[str, ...] = ()
    """Files that links led to, and that were not among the descriptors."""
    members: tuple[Member, ...] = ()
    linked_files: tuple[str, ...] = ()
    """Names of other files that the file refers to."""
    entries: tuple[str, ...] = ()
    """Names of the file's NXentry groups."""
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


def look_at(
    path: Path,
    sleep: Callable[[float], None] = time.sleep,
    *,
    data_directory: str = "",
    limits: Limits = LIMITS,
) -> CompleteFile:
    """One look at a file; see :func:`wait_until_complete`."""
    before = status_of(path)
    if time.time() - before.st_mtime < QUIET_SECONDS:
        sleep(QUIET_SECONDS)
    with opened_file(path, data_directory) as file:
        _answered([file], Questions(path=str(path)), limits)
    found = complete_file(path, status_of(path))
    if found != complete_file(path, before):
        raise NotReadyError(
            f"{path} is still being written.",
            remedy="Nothing to do while the file writer is busy with it; it is tried again.",
        )
    return found


def read_values(
    file: CompleteFile,
    reads: Iterable[Read],
    *,
    data_directory: str = "",
    linked_within: str = "",
    limits: Limits = LIMITS,
) -> Contents:
    """The values of a complete file that are asked for, all read in one child process.

    Links to other files in the folder ``linked_within`` are followed; empty: none.

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
    with opened_again(file, data_directory) as descriptor, FollowedFiles(path, linked_within) as linked:
        while True:
            questions = Questions(path=file.path, reads=asked, linked=linked.known)
            answer = _answered([descriptor, *linked.descriptors], questions, limits)
            if not linked.open(answer.lacking):
                return Contents(dict(zip(asked, answer.values, strict=True)))


def read_linked_files(
    file: CompleteFile, *, data_directory: str = "", limits: Limits = LIMITS
) -> tuple[str, ...]:
    """The names of other files that a complete file refers to, as they are written there.

    Raises as :func:`read_values`; a file with more members than anybody can look at is a
    :class:`PermanentError`.
    """
    with opened_again(file, data_directory) as descriptor:
        questions = Questions(path=file.path, asks_for_linked_files=True)
        return _answered([descriptor], questions, limits).linked_files


def read_entries(file: CompleteFile, *, data_directory: str = "", limits: Limits = LIMITS) -> tuple[str, ...]:
    """The names of the NXentry groups in a complete file, in the order of its names.

    Raises as :func:`read_linked_files`.
    """
    with opened_again(file, data_directory) as descriptor:
        questions = Questions(path=file.path, asks_for_entries=True)
        return _answered([descriptor], questions, limits).entries


@contextmanager
def opened_again(file: CompleteFile, data_directory: str) -> Iterator[int]:
    """A descriptor of a file that is still the one that was found complete."""
    path = Path(file.path)
    with opened_file(path, data_directory) as descriptor:
        if complete_file(path, status_of_open(path, descriptor)) != file:
            raise file_changed(file)
        yield descriptor


def read_growing(
    path: Path, reads: Iterable[Read], *, data_directory: str = "", limits: Limits = LIMITS
) -> Contents:
    """Values of a file that may be written meanwhile, as they are now; all read in one child process.

    A writer in HDF5's single-writer/multiple-reader mode lets us in; any other has locked the file.
    https://docs.h5py.org/en/stable/swmr.html

    Raises
    ------
    NotReadyError
        It is not there, is locked, or cannot be read yet.
    TransientError
        The storage failed.
    PermanentError
        As for :func:`look_at`.
    """
    asked = tuple(dict.fromkeys(reads))
    with opened_file(path, data_directory) as descriptor:
        questions = Questions(path=str(path), reads=asked, is_growing=True)
        answer = _answered([descriptor], questions, limits)
    return Contents(dict(zip(asked, answer.values, strict=True)))


def read_members(path: Path, *, limits: Limits = LIMITS) -> tuple[Member, ...]:
    """The groups and datasets of a file, each once and by hard links only; a group before what is in it.

    Raises
    ------
    TransientError
        The file is not there, is being written, or its storage failed.
    PermanentError
        As for :func:`wait_until_complete`, or the file has more members than anybody can look at.
    """
    with opened_file(path, "") as descriptor:
        questions = Questions(path=str(path), asks_for_members=True)
        return _answered([descriptor], questions, limits).members


def _answered(files: Sequence[int], questions: Questions, limits: Limits) -> Answer:
    """The child's answer about open files, the one that is asked about first."""
    path, request = Path(questions.path), questions.model_dump_json().encode()
    before = status_of_open(path, files[0])
    kind: type[PermanentError] = PermanentError
    try:
        answer = Answer.model_validate_json(ask("hdf5", request, files=files, limits=limits))
        if answer.failure is None and len(answer.values) != len(questions.reads):
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
    if complete_file(path, status_of_open(path, files[0])) != complete_file(path, before):
        raise NotReadyError(what, remedy="It is tried again, because the file is still being written.")
    raise kind(
        what,
        remedy="The file is damaged: compare it with the file writer's copy, put a sound file in place, then "
        "try the file again.",
    )
