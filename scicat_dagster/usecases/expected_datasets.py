"""Real files beside the datasets that are expected of them, compared with what the schemas make of them.

No server is asked: what SciCat would answer is in one file of the folder. What is another value on each
machine or at each execution is not compared. A facility keeps folder and schemas in git, and compares them in
its continuous integration.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from scicat_dagster.config.models import Settings
from scicat_dagster.dataset.build import BuiltDataset, FieldsError
from scicat_dagster.dataset.rebuild import build_again, extract_again
from scicat_dagster.errors import IngestionError, Notice, PermanentError, UnknownHereError
from scicat_dagster.schemas.loading import SchemaCollection
from scicat_dagster.schemas.models import Schema
from scicat_dagster.schemas.variables import Cause, by_cause
from scicat_dagster.scicat.correction import METADATA, shortened, varying_fields
from scicat_dagster.usecases.walk import Criteria, NothingFound, has_name, nothing_found

SUFFIX = ".expected.json"
"""Follows the name of a data file: the dataset that is expected of it."""

ANSWERS = "scicat.json"
"""In the folder: what SciCat answers, by the address as a schema asks for it."""

FOLDER = "<folder>"
"""Stands for the folder in expected datasets, which is elsewhere on each machine."""

FILES = "origdatablock"
"""In an expected dataset that has it: the files that the dataset lists, by path and size."""

Result = Literal["ok", "differs", "updated", "not expected yet", "no such file", "failed"]

_NO_DIFFERENCE: tuple[Result, ...] = ("ok", "updated")

_SAME = 1e-9
"""Relative; sums of numbers differ between machines."""


class FileResult(BaseModel):
    """The result of one file: what differs, or why no dataset was built, and what else failed."""

    file: str
    """Relative to the folder."""
    result: Result
    schema_name: str = ""
    details: list[str] = []
    causes: list[Cause] = []
    """What else failed, each with what follows from it."""

    @property
    def is_as_expected(self) -> bool:
        """Whether nothing is to be done."""
        return self.result in _NO_DIFFERENCE

    def as_text(self) -> str:
        """The same for a person: one line, and one for each detail."""
        lines = [f"{self.result:17}{self.file}  {self.schema_name}".rstrip()]
        lines += [f"  {detail}" for detail in self.details]
        lines += [f"  note: {cause.as_text()}" for cause in self.causes]
        return "\n".join(lines)


Datasets = Mapping[str, dict[str, JsonValue]]
"""The datasets of a file by the names of their NXentry; where it is one dataset, by an empty name."""


class RecordedCatalogue:
    """Answers from a file in SciCat's place; what is not in there is a failure that says what to add."""

    def __init__(self, answers: Mapping[str, JsonValue]) -> None:
        self._answers = answers

    def fetch(self, url: str) -> JsonValue:
        """The answer to an address.

        Raises
        ------
        UnknownHereError
            None is recorded.
        """
        if url not in self._answers:
            raise UnknownHereError(f"{ANSWERS} has no answer for {url}; add it.")
        return self._answers[url]

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """The samples that are recorded for a proposal; raises as :meth:`fetch`."""
        answer = self.fetch(f"samples of proposal {proposal_id}")
        return [sample for sample in answer if isinstance(sample, dict)] if isinstance(answer, list) else []


def read_answers(folder: Path) -> RecordedCatalogue:
    """What SciCat answers, as far as the folder says so.

    Raises
    ------
    PermanentError
        The file is there and does not hold a JSON object.
    """
    path = folder / ANSWERS
    if not path.exists():
        return RecordedCatalogue({})
    return RecordedCatalogue(_object_in(path))


def compare_with_expected(place: Path, schemas: SchemaCollection, settings: Settings) -> list[FileResult]:
    """Each data file below a folder, or one file, with what differs from its expected dataset.

    Nothing is written.
    """
    return _each(place, schemas, settings, _compared)


def write_expected(place: Path, schemas: SchemaCollection, settings: Settings) -> list[FileResult]:
    """Write what the schemas make of each data file below a folder, or of one, as its expected dataset."""
    return _each(place, schemas, settings, _updated)


def _each(
    place: Path,
    schemas: SchemaCollection,
    settings: Settings,
    judge: Callable[[Path, Datasets], tuple[Result, list[str]]],
) -> list[FileResult]:
    """What ``judge`` says of each file's expected datasets, by their place, and of those that were made."""
    folder = folder_of(place)
    catalogue = read_answers(folder)
    named = settings.ingestion.file_handling.file_names
    files = [place] if place.is_file() else _data_files(folder, named)
    results = [_result(folder, file, schemas, settings, catalogue, judge) for file in files]
    return results if place.is_file() else results + _without_file(folder)


def folder_of(place: Path) -> Path:
    """The folder of the tests that a file is one of: the nearest one above with answers, or else its own."""
    if place.is_dir():
        return place
    return next((folder for folder in place.parents if (folder / ANSWERS).exists()), place.parent)


def _result(
    folder: Path,
    file: Path,
    schemas: SchemaCollection,
    settings: Settings,
    catalogue: RecordedCatalogue,
    judge: Callable[[Path, Datasets], tuple[Result, list[str]]],
) -> FileResult:
    name = str(file.relative_to(folder))
    try:
        schema, found, notices = _made(folder, file, schemas, settings, catalogue)
        result, details = judge(_expected_of(file), found)
    except IngestionError as error:
        return _failed(name, error)
    causes = by_cause(notices, schema)
    return FileResult(file=name, result=result, schema_name=schema.name, details=details, causes=causes)


def _compared(expected: Path, found: Datasets) -> tuple[Result, list[str]]:
    if not expected.exists():
        return "not expected yet", []
    written = _object_in(expected)
    if "" in found:
        differences = list(_all_differences(written, found[""]))
    else:
        differences = [
            f"{entry}.{difference}"
            for entry in sorted({*written, *found})
            for difference in _all_differences(_as_object(written.get(entry)), found.get(entry, {}))
        ]
    return "differs" if differences else "ok", differences


def _as_object(value: JsonValue) -> dict[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _updated(expected: Path, found: Datasets) -> tuple[Result, list[str]]:
    before = _object_in(expected) if expected.exists() else {}
    kept = {
        entry: dataset if FILES in _as_object(before.get(entry) if entry else before) else _fields(dataset)
        for entry, dataset in found.items()
    }
    written = kept.get("", kept)
    _write(expected, json.dumps(written, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
    return "updated", []


def _write(path: Path, text: str) -> None:
    try:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PermanentError(
            f"{path} cannot be written: {error.strerror}.", remedy="Give yourself the right to write there."
        ) from error


def _failed(name: str, error: IngestionError) -> FileResult:
    if isinstance(error, FieldsError):
        details = [f"{field}: {reason.text}" for field, reason in error.reasons.items()]
    else:
        details = [error.what, error.remedy]
    return FileResult(file=name, result="failed", details=details)


def _without_file(folder: Path) -> list[FileResult]:
    return [
        FileResult(file=str(path.relative_to(folder)).removesuffix(SUFFIX), result="no such file")
        for path in sorted(folder.rglob(f"*{SUFFIX}"))
        if not path.with_name(path.name.removesuffix(SUFFIX)).exists()
    ]


def _data_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if has_name(path.name, patterns) and path.is_file())


def without_data_files(folder: Path, settings: Settings) -> NothingFound:
    """What there is in a folder in which no file was looked at."""
    return nothing_found(str(folder), Criteria(), _for_files_anywhere(settings).ingestion.file_handling)


def _expected_of(file: Path) -> Path:
    return file.with_name(f"{file.name}{SUFFIX}")


def _made(
    folder: Path,
    file: Path,
    schemas: SchemaCollection,
    settings: Settings,
    catalogue: RecordedCatalogue,
) -> tuple[Schema, Datasets, list[Notice]]:
    """The schema of a file, its datasets without what varies, and what failed."""
    settings = _for_files_anywhere(settings)
    extracted = extract_again(str(file), schemas, catalogue, settings)
    built = build_again(extracted, settings)
    schema = extracted[0].schema_
    datasets = {dataset.entry: _without_varying(dataset, schema, settings, folder) for dataset in built}
    # Where checksum and message would be written is the configuration's business.
    notices = [
        notice
        for dataset in built
        for notice in dataset.notices
        if not notice.subject.startswith("origdatablock")
    ]
    return schema, datasets, list(dict.fromkeys(notices))


def _without_varying(
    built: BuiltDataset, schema: Schema, settings: Settings, folder: Path
) -> dict[str, JsonValue]:
    left_out = varying_fields(schema)
    if settings.dataset.generate_dataset_pid or not _assigns_pid(schema):
        # It may be made of the path.
        left_out.add("pid")
    dataset = {name: value for name, value in built.dataset.items() if name not in left_out}
    entries = dataset.get(METADATA)
    if isinstance(entries, dict):
        dataset[METADATA] = {
            name: entry for name, entry in entries.items() if f"{METADATA}.{name}" not in left_out
        }
    # Times, owners and rights are others on each machine.
    listed: list[JsonValue] = [
        {"path": path, "size": size} for path, size in _sizes(built.origdatablock).items()
    ]
    dataset[FILES] = {"dataFileList": listed}
    return _as_object(_anywhere(dataset, folder))


def _for_files_anywhere(settings: Settings) -> Settings:
    handling = settings.ingestion.file_handling.model_copy(
        update={"data_directory": "", "compute_file_hash": False}
    )
    ingesting = settings.ingestion.model_copy(update={"file_handling": handling})
    return settings.model_copy(update={"ingestion": ingesting})


def _assigns_pid(schema: Schema) -> bool:
    return any(assignment.fills == "pid" for assignment in schema.assignments.values())


def _anywhere(value: JsonValue, folder: Path) -> JsonValue:
    """The value without the place of the folder on this machine."""
    if isinstance(value, str):
        return _text_anywhere(value, folder)
    if isinstance(value, list):
        return [_anywhere(item, folder) for item in value]
    if isinstance(value, dict):
        return {name: _anywhere(item, folder) for name, item in value.items()}
    return value


def _text_anywhere(text: str, folder: Path) -> str:
    above = [str(parent) for parent in folder.parents]
    if text in above:
        return "/".join([FOLDER, *[".."] * (above.index(text) + 1)])
    return text.replace(str(folder), FOLDER)


def _all_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Of the fields, and of the files where some are expected."""
    yield from _differences(_fields(expected), _fields(found))
    if FILES not in expected:
        return
    ours, theirs = _sizes(_as_object(found.get(FILES))), _sizes(_as_object(expected[FILES]))
    for path in sorted({*ours, *theirs}):
        name = f"{FILES}.{path}"
        if path not in ours:
            yield f"{name}: expected, and not listed"
        elif path not in theirs:
            yield f"{name}: listed, and not expected"
        elif theirs[path] not in (None, ours[path]):
            yield f"{name}: expected {shortened(theirs[path])} bytes, found {shortened(ours[path])}"


def _fields(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name != FILES}


def _sizes(origdatablock: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The size of each file that is listed, by its path; None where it is not said."""
    files = origdatablock.get("dataFileList")
    entries = map(_as_object, files if isinstance(files, list) else ())
    return {str(entry.get("path")): entry.get("size") for entry in entries}


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    ours_alone = _entries(found).keys() - _entries(expected).keys()
    theirs_alone = _entries(expected).keys() - _entries(found).keys()
    ours, theirs = _flat(found, whole=ours_alone), _flat(expected, whole=theirs_alone)
    for name in sorted({*ours, *theirs}):
        if not _is_same(theirs.get(name), ours.get(name)):
            yield f"{name}: expected {shortened(theirs.get(name))}, found {shortened(ours.get(name))}"


def _entries(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    entries = dataset.get(METADATA)
    return entries if isinstance(entries, dict) else {}


def _flat(dataset: Mapping[str, Any], whole: Collection[str]) -> dict[str, Any]:
    """The fields, and the parts of the entries of the scientific metadata, by dotted names.

    An entry that the other dataset lacks as a ``whole`` is its value alone.
    """
    flat = {name: value for name, value in dataset.items() if name != METADATA}
    for name, entry in _entries(dataset).items():
        if name in whole:
            value = entry.get("value") if isinstance(entry, dict) else None
            flat[f"{METADATA}.{name}"] = entry if value is None else value
            continue
        parts = entry if isinstance(entry, dict) else {"": entry}
        flat |= {f"{METADATA}.{name}.{part}": value for part, value in parts.items()}
    return flat


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, int | float) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=_SAME)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


def _object_in(path: Path) -> dict[str, JsonValue]:
    try:
        return _OBJECT.validate_json(path.read_bytes())
    except OSError as error:
        raise PermanentError(
            f"{path} cannot be read: {error.strerror}.", remedy="Give yourself the right to read it."
        ) from error
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise PermanentError(
            f"{path} is not a JSON object: {what}.", remedy="Correct it, or write it with --update."
        ) from None


def absolute(folder: Path) -> Path:
    """The folder as the paths of its files begin."""
    # Not resolved: a symbolic link is the path that a message would name.
    return Path(os.path.abspath(folder))  # noqa: PTH100
