"""What travels between the ops of a run, stored as JSON, so that a run can go on in another process.

Dagster's own IO manager stores pickles, and loading a pickle executes what it says: whoever can write into
the storage, which the machines of a facility may share, could execute code as the service. Here a stored
value is read as data, and judged by the model that the op declares. Within the process that has stored it, it
is handed on as it is: reading it again is a third of the work on a past file. A schema, which is most of what
is known of a file, is stored once for all files of the run.

https://docs.dagster.io/guides/build/io-managers/defining-a-custom-io-manager
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

from scicat_dagster.dataset.stored_schemas import StoredSchemas
from scicat_dagster.orchestration.failures.policy import repeat_whole_run

_MARK = "$"
"""The key of an object that stands for a value that JSON does not have."""


class JsonBetweenOps(dg.IOManager):
    """Stores pydantic models as JSON files below ``DAGSTER_HOME/storage``, open to nobody else."""

    def __init__(self) -> None:
        self._run_id = ""
        self._handed_on: dict[Path, BaseModel] = {}
        """What this process has stored for the run, by the place where it is."""

    def handle_output(self, context: dg.OutputContext, obj: BaseModel) -> None:
        """Store what an op returned."""
        storage = Path(context.step_context.instance.storage_directory())
        path = _path(storage, context)
        content = _as_text(obj)
        _make_private_folders(path.parent, storage)
        # Beside it first: a process that is killed leaves no half of a file.
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(content)
        unfinished.replace(path)
        if self._run_id != context.run_id:
            self._run_id, self._handed_on = context.run_id, {}
        self._handed_on[path] = obj

    def load_input(self, context: dg.InputContext) -> BaseModel:
        """Read what an op of this run, or of the run that it re-executes, has stored.

        Raises
        ------
        dagster.Failure
            It is not there, or not what the op declares; the run is then repeated from its beginning.
        """
        model: type[BaseModel] = context.dagster_type.typing_type
        storage = Path(context.instance.storage_directory())
        path = _path(storage, context.upstream_output)
        if self._run_id == context.step_context.run_id and type(kept := self._handed_on.get(path)) is model:
            return kept
        try:
            return _from_text(model, _content(path))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise repeat_whole_run(
                context.instance,
                context.step_context.run_id,
                "What an op handed on cannot be read: it is missing, or not what was stored.",
                {"where": str(path), "why": f"{type(error).__name__}: {error}"},
            ) from error


def _as_text(model: BaseModel) -> str:
    schemas = StoredSchemas()
    value = _to_json(model.model_dump(by_alias=True, context=schemas))
    return json.dumps({"schemas": _to_json(schemas.stored), "value": value})


def _from_text(model: type[BaseModel], content: bytes) -> BaseModel:
    match json.loads(content):
        case {"schemas": [*schemas], "value": value}:
            return model.model_validate(_from_json(value), context=StoredSchemas(_from_json(schemas)))
    raise ValueError("it has no schemas, or no value")


def _path(storage: Path, context: dg.OutputContext | None) -> Path:
    if context is None:
        raise TypeError("Only what an op returned can be loaded.")
    return storage.joinpath(*context.get_identifier()).with_suffix(".json")


def _make_private_folders(folder: Path, storage: Path) -> None:
    storage.mkdir(mode=0o700, parents=True, exist_ok=True)
    for parent in reversed([folder, *folder.parents]):
        if parent.is_relative_to(storage) and parent != storage:
            parent.mkdir(mode=0o700, exist_ok=True)


def _content(path: Path) -> bytes:
    """What a regular file holds; neither a link's target nor what somebody feeds into a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        return file.read()


def _to_json(value: Any) -> Any:
    """A value with what JSON does not have, and YAML does, written as marked objects."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return {_MARK: "datetime", "value": value.isoformat()}
        case date():
            return {_MARK: "date", "value": value.isoformat()}
        case bytes():
            return {_MARK: "bytes", "value": base64.b64encode(value).decode("ascii")}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case set() | frozenset():
            return {_MARK: "set", "value": [_to_json(item) for item in value]}
        case dict() if all(isinstance(key, str) for key in value) and _MARK not in value:
            return {key: _to_json(item) for key, item in value.items()}
        case dict():
            return {_MARK: "dict", "value": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
    raise TypeError(f"A {type(value).__name__} cannot travel between ops.")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: _from_json(item) for key, item in value.items()}
    if value[_MARK] not in _MARKED or value.keys() != {_MARK, "value"}:
        raise ValueError(f"there is nothing that is marked {value[_MARK]!r}")
    return _MARKED[value[_MARK]](value["value"])


_MARKED: Mapping[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "bytes": base64.b64decode,
    "set": lambda items: {_from_json(item) for item in items},
    "dict": lambda items: {_from_json(key): _from_json(item) for key, item in items},
}
