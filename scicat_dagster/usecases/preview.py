"""What would be posted for a file, without posting it: the whole way but its last step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from scicat_dagster.config.loading import Configuration, load_configuration
from scicat_dagster.config.models import Settings
from scicat_dagster.config.overrides import Overrides
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.ingestion import ExtractedMetadata, build, check_pids, unlisted_files
from scicat_dagster.dataset.jobs import WantedJob, wanted_jobs
from scicat_dagster.dataset.rebuild import describe_again, extract_again
from scicat_dagster.errors import IngestionError, Notice, TransientError
from scicat_dagster.files.manifest import FileDescription
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.schemas.variables import Cause, by_cause
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.correction import Correction, compare
from scicat_dagster.scicat.registration import registered_dataset
from scicat_dagster.usecases.thumbnails import drawn_preview


class PreviewSchema(BaseModel):
    """The schema that was chosen."""

    id: str
    name: str


class PreviewError(BaseModel):
    """Why the file could not be registered, and what a person can do."""

    subject: str
    reason: str
    remedy: str


class Preview(BaseModel):
    """The answer of ``scicat-dagster preview``; facilities script it, so its keys stay as they are.

    ``dataset`` and ``origdatablock`` are the bodies that would be posted, or None where there is an error;
    ``jobs`` are those that would be posted after them, with ``<pid>`` where the server makes the pid.
    ``difference`` is None where the file is not registered; else how the catalogue's dataset differs.
    Where the file is several datasets, ``entry`` is the NXentry of this one, and ``others`` are its others:
    each has a dataset or an error.
    """

    model_config = ConfigDict(populate_by_name=True)

    file: str
    schema_: PreviewSchema | None = Field(default=None, serialization_alias="schema")
    dataset: dict[str, JsonValue] | None = None
    origdatablock: dict[str, JsonValue] | None = None
    jobs: list[WantedJob] = []
    difference: Correction | None = None
    warnings: list[Notice] = []
    errors: list[PreviewError] = []
    entry: str = ""
    picture: str = ""
    """What the picture that would be attached shows, or why there would be none."""
    others: list[Preview] = []
    causes: list[Cause] = Field(default=[], exclude=True)
    """The warnings, with what follows from another one together with it."""

    @property
    def is_well(self) -> bool:
        """Whether the file could be registered."""
        return not self.errors and all(other.is_well for other in self.others)

    def as_text(self) -> str:
        """The same for a person."""
        ending = "It could be registered." if self.is_well else _ONLY_WHOLE
        return "\n\n".join(shown.dataset_as_text(ending) for shown in (self, *self.others))

    def dataset_as_text(self, ending: str) -> str:
        """This dataset alone; ``ending`` is what is said of one that could be built."""
        lines = [f"file           {self.file}"]
        if self.entry:
            lines.append(f"NXentry        {self.entry}")
        if self.schema_:
            lines.append(f"schema         {self.schema_.name} ({self.schema_.id})")
        if self.picture:
            lines.append(f"picture        {self.picture}")
        for title, body in (("dataset", self.dataset), ("origdatablock", self.origdatablock)):
            if body is not None:
                lines += ["", title, json.dumps(body, indent=2, ensure_ascii=False)]
        for wanted in self.jobs:
            shown = wanted.job.model_dump_json(indent=2) if wanted.job else f"cannot be made: {wanted.reason}"
            lines += ["", f"job {wanted.name}", shown]
        if self.difference is not None:
            lines += [
                "",
                f"It is registered as {self.difference.pid}. Differences, and what `reingest` does:",
            ]
            lines += [f"  {change.field}: {change.in_words()}" for change in self.difference.changes]
        causes = self.causes or map(Cause, self.warnings)
        lines += ["", *(f"warning: {cause.as_text()}" for cause in causes)]
        lines += [f"error: {error.subject}: {error.reason}\n       {error.remedy}" for error in self.errors]
        if self.errors:
            ending = "It could not be registered."
        elif self.difference is not None:
            ending = "It is registered already."
        lines.append(ending)
        return "\n".join(lines)


def preview_file(
    file: Path,
    config: Path,
    environment: Mapping[str, str],
    overrides: Overrides = MappingProxyType({}),
) -> Preview:
    """Run the ingestion pipeline without the registration. Failures are in ``errors``; nothing is written."""
    # Not resolved: a symbolic link is the path that a message would name.
    preview = Preview(file=os.path.abspath(file))  # noqa: PTH100
    try:
        configuration = load_configuration(config, environment, overrides)
    except IngestionError as error:
        preview.errors.append(_error("configuration", error))
        return preview
    client = ScicatClient(configuration.settings.scicat)
    try:
        _fill(preview, configuration, client)
    except IngestionError as error:
        preview.errors.append(_error("file", error))
    finally:
        client.close()
    return preview


def _fill(preview: Preview, configuration: Configuration, client: ScicatClient) -> None:
    settings = configuration.settings
    preview.warnings += [Notice(subject="configuration", reason=text) for text in configuration.warnings]
    schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
    extracted = extract_again(preview.file, schemas, client, settings)
    preview.schema_ = PreviewSchema(id=extracted[0].schema_.id, name=extracted[0].schema_.name)
    files = describe_again(extracted, settings)
    built = [_built(metadata, files, settings) for metadata in extracted]
    check_pids([each for each in built if isinstance(each, BuiltDataset)], files)
    preview.others += [preview.model_copy(deep=True) for _ in extracted[1:]]
    preview.warnings += unlisted_files(extracted, settings)
    for shown, metadata, each in zip((preview, *preview.others), extracted, built, strict=True):
        shown.entry = metadata.entry
        if isinstance(each, IngestionError):
            shown.errors.append(_error("file", each))
        else:
            _fill_dataset(shown, metadata, each, client, settings)


def _built(
    metadata: ExtractedMetadata, files: FileDescription, settings: Settings
) -> BuiltDataset | IngestionError:
    """A dataset, or why it cannot be built: those of other NXentry are shown all the same."""
    try:
        return build(metadata, files, settings)
    except IngestionError as error:
        return error


def _fill_dataset(
    preview: Preview,
    metadata: ExtractedMetadata,
    built: BuiltDataset,
    client: ScicatClient,
    settings: Settings,
) -> None:
    drawn = drawn_preview(metadata, settings)
    preview.picture = drawn.thumbnail.caption if drawn.thumbnail else f"none: {drawn.reason}"
    preview.dataset, preview.origdatablock = built.dataset, built.origdatablock
    preview.warnings += built.notices
    preview.jobs += wanted_jobs(metadata, built, str(built.dataset.get("pid", "<pid>")))
    try:
        preview.dataset = client.as_posted(built.dataset)
        preview.warnings += client.left_out(built.dataset)
    except TransientError as error:
        preview.warnings.append(Notice(subject="scicat.api", reason=f"Nobody can say which. {error.what}"))
    preview.difference = _difference(preview, built, metadata, client, settings)
    preview.causes = by_cause(preview.warnings, metadata.schema_)


def _difference(
    preview: Preview,
    built: BuiltDataset,
    metadata: ExtractedMetadata,
    client: ScicatClient,
    settings: Settings,
) -> Correction | None:
    try:
        built = built.model_copy(update={"dataset": client.held(built.dataset)})
        registered = registered_dataset(built, client, settings.ingestion)
    except TransientError as error:
        # The bodies are right all the same.
        preview.warnings.append(Notice(subject="difference", reason=f"Nobody can say now. {error.what}"))
        return None
    return None if registered is None else compare(built, metadata.schema_, registered)


def _error(subject: str, error: IngestionError) -> PreviewError:
    # Its own remedy is for runs, which are tried again by themselves.
    remedy = _WITHOUT_SERVER if isinstance(error, TransientError) else error.remedy
    return PreviewError(subject=subject, reason=error.what, remedy=remedy)


_ONLY_WHOLE = (
    "It could be registered, if its others could: a file is registered with all its datasets, or not."
)

_WITHOUT_SERVER = (
    "See that it is there and answers, then run this again. Without SciCat, `scicat-dagster validate CONFIG "
    "--against FILE` says which fields get a value, and `scicat-dagster schema test FILE` makes the dataset, "
    "with answers of SciCat that you write down."
)
