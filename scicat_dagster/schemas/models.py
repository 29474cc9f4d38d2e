"""The shape of one schema file, as pydantic models. Reading files belongs to ``loading``.

A variable or field that cannot be used does not void its schema: it is read as :class:`Unusable`, and fails
for each file as a value that is missing would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from scicat_dagster.nearest import suggestion
from scicat_dagster.schemas.conversion import ValueType
from scicat_dagster.schemas.mistakes import Mistake, mistakes_in, unknown_key
from scicat_dagster.schemas.operators import OPERATORS, Arguments, canonical_name
from scicat_dagster.schemas.plugins import is_operator, operator_named, operator_names
from scicat_dagster.schemas.rendering import references
from scicat_dagster.schemas.selection import Selector, expression_mistakes, read_selector
from scicat_dagster.schemas.techniques import technique

MESSAGE_VARIABLES = ("message_job_id", "message_service_id", "message_metadata")
"""Those of the built-in variables that only a file with an announcement has."""

BUILT_IN_VARIABLES = (
    "ingestor_run_id",
    "data_file_path",
    "data_file_name",
    "now",
    "ingestor_files_directory",
    "ingestor_metadata_schema_id",
    *MESSAGE_VARIABLES,
)
"""Defined before a schema's own, which may take their place; the last three only when the file was announced
by a message.
"""

ENTRY_VARIABLE = "entry"
"""The name of the NXentry that a dataset is of, where the schema makes a dataset of each (``entries``)."""

_ENTRY = f"<{ENTRY_VARIABLE}>"

DATASET_FIELDS = frozenset(
    {
        "pid", "type", "datasetName", "description", "principalInvestigator", "creationLocation",
        "owner", "ownerEmail", "orcidOfOwner", "contactEmail", "sourceFolder", "sourceFolderHost",
        "creationTime", "startTime", "endTime", "dataFormat", "instrumentId", "proposalId", "sampleId",
        "ownerGroup", "accessGroups", "instrumentGroup", "isPublished", "keywords", "techniques",
        "relationships", "datasetlifecycle", "comment", "dataQualityMetrics", "jobParameters", "jobLogData",
        "runNumber", "classification", "license", "validationStatus", "sharedWith",
        "inputDatasets", "usedSoftware", "packedSize", "numberOfFilesArchived", "scientificMetadataSchema",
        "size", "numberOfFiles",
    }
)  # fmt: skip
"""Fields of the v3 create DTO that a ``high_level`` assignment may fill."""

V4_LIST_FIELDS: Mapping[str, str] = {
    "principalInvestigators": "principalInvestigator",
    "proposalIds": "proposalId",
    "instrumentIds": "instrumentId",
    "sampleIds": "sampleId",
}
"""Fields of the v4 API that hold lists, which an assignment may fill as well, and what v3 has for them."""


def _scalar_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _joined(value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ",".join(str(item) for item in value)
    return _scalar_text(value)


# The input type is for the JSON Schema, which tells editors what else may be written.
Text = Annotated[str, BeforeValidator(_scalar_text, json_schema_input_type=str | float)]


class _Part(BaseModel):
    # Unknown keys are kept to be named. In an editor they are mistakes.
    model_config = ConfigDict(frozen=True, extra="allow", json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _blank_is_default(cls, raw: Any) -> Any:
        """A key without a value has its default, as in the configuration file."""
        if not isinstance(raw, dict):
            return raw
        known = cls.known_keys() - {"value"}
        return {str(key): value for key, value in raw.items() if value is not None or key not in known}

    @classmethod
    def known_keys(cls) -> frozenset[str]:
        """The keys that it may have."""
        return _keys_of(cls)

    def oddities(self) -> Iterator[Mistake]:
        """What is wrong with it although it can be used."""
        for key in self.model_extra or {}:
            yield unknown_key(key, self.known_keys())


@cache
def _keys_of(model: type[BaseModel]) -> frozenset[str]:
    # A schema is read once for each op of a run, and each of its parts asks.
    return frozenset(field.alias or name for name, field in model.model_fields.items())


class Unusable(BaseModel):
    """A variable, field or section of a schema that cannot be used; files are registered without it."""

    model_config = ConfigDict(frozen=True)

    mistakes: tuple[Mistake, ...]
    field_type: str = ""
    machine_name: str = ""

    @property
    def reason(self) -> str:
        """All mistakes as one text."""
        return " ".join(str(mistake) for mistake in self.mistakes)


def _stored(raw: Any) -> Unusable | None:
    """An unusable item that was read before, and stored with its schema since."""
    if isinstance(raw, dict) and raw.keys() == Unusable.model_fields.keys():
        return Unusable.model_validate(raw)
    return raw if isinstance(raw, Unusable) else None


def _unusable(raw: Any, error: ValidationError, keys: frozenset[str]) -> Unusable:
    written = raw if isinstance(raw, dict) else {}
    unknown = tuple(unknown_key(str(key), keys) for key in written if key not in keys)
    return Unusable(
        mistakes=(*mistakes_in(error), *unknown),
        field_type=str(written.get("field_type", "")),
        machine_name=str(written.get("machine_name", "")),
    )


_PartOfSchema = TypeVar("_PartOfSchema", bound=_Part)


def _usable(
    model: type[_PartOfSchema],
) -> Callable[[Any, ValidatorFunctionWrapHandler], _PartOfSchema | Unusable]:
    """How to read an item of which a wrong one does not take its whole schema with it."""

    def read(raw: Any, _: ValidatorFunctionWrapHandler) -> _PartOfSchema | Unusable:
        if stored := _stored(raw):
            return stored
        try:
            return model.model_validate(raw)
        except ValidationError as error:
            return _unusable(raw, error, model.known_keys())

    return read


NO_OPERATOR = "DO_NOTHING"
"""How scicat-ingestor's documentation writes that there is no operator."""


class NexusVariable(_Part):
    """A value in the NeXus file; a path component with ``*`` is searched as a regular expression."""

    source: Literal["NXS"]
    """`NXS`: the value is read from the NeXus file."""
    path: str
    """Where it is in the file, such as /entry/title. A component with * is searched as a regular expression
    in the names there; * alone is every name. What follows an @ at the end is the name of an attribute.
    """
    value_type: ValueType
    """What the value is turned into; types that end in [] and `list` take every value found."""
    unit: Text = ""
    """The unit, if the file has no `units` attribute there."""

    @field_validator("path")
    @classmethod
    def _wildcards_are_expressions(cls, path: str) -> str:
        for mistake in expression_mistakes(path):
            raise ValueError(mistake)
        return path


class ScicatVariable(_Part):
    """A value that the catalogue answers; ``field`` is a key of the answer, or empty for all of it."""

    source: Literal["SC"]
    """`SC`: SciCat is asked for the value."""
    url: str
    """What is asked for, relative to the API's root or absolute, such as proposals/<proposal_id>."""
    field: str | int = ""
    """The key (or the number) of the answer's part; empty is the whole answer."""
    value_type: ValueType
    """What the value is turned into."""
    unit: Text = ""
    """Does nothing here. What the catalogue answers has no unit; write one as the `unit` of the field that
    the value is put in.
    """


class ValueVariable(_Part):
    """A value put together from others."""

    source: Literal["VALUE"]
    """`VALUE`: the value is put together from others."""
    value: Any
    """Text, a number, a list or a dict; each <name> in it becomes the value of that variable, which is
    defined before.
    """
    operator: str = ""
    """What is done with the value; hyphen and underscore are the same."""
    field: str | int | None = None
    """For `getitem`: the key, or the number, of the item."""
    pattern: Text | None = None
    """For `str_replace` and `split`: the text to find. For `regex`: the expression; its group 1 is taken."""
    replacement: Text | None = None
    """For `str_replace`: the text to put in its place."""
    value_type: ValueType
    """What the value is turned into."""
    unit: Text = ""
    """Does nothing here. The value has the unit of the variables that it is made of; another one is written
    as the `unit` of the field that the value is put in.
    """

    @property
    def arguments(self) -> Arguments:
        """What the operator is given beside the value."""
        return Arguments(self.field, self.pattern, self.replacement)

    @field_validator("operator", mode="before")
    @classmethod
    def _known_operator(cls, name: object) -> object:
        if not name or name == NO_OPERATOR:
            return ""
        if not isinstance(name, str) or not is_operator(canonical_name(name)):
            known = operator_names()
            meant = suggestion(str(name), known) or f"; known are {', '.join(sorted(known))}"
            raise ValueError(f"unknown operator {name!r}{meant}")
        return canonical_name(name)

    @model_validator(mode="after")
    def _can_be_operated(self) -> ValueVariable:
        built_in = OPERATORS.get(self.operator)
        if built_in and not built_in.is_optional and (missing := self.missing_arguments):
            raise ValueError(f"the operator {self.operator} needs `{missing[0]}`")
        if self.operator == "panet":
            _check_techniques(self.value)
        if self.operator == "regex" and self.pattern is not None:
            try:
                expression = re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is not a regular expression ({error})") from None
            if not expression.groups:
                raise ValueError(f"pattern {self.pattern!r} has no group; put what you want in ( )")
        return self

    @property
    def missing_arguments(self) -> tuple[str, ...]:
        """What the operator needs and is not given. Only an operator that may be left out lacks something."""
        needs = OPERATORS[self.operator].needs if self.operator in OPERATORS else ()
        return tuple(argument for argument in needs if getattr(self, argument) is None)

    def oddities(self) -> Iterator[Mistake]:
        """Unknown keys, and an operator that is left out because it lacks an argument."""
        yield from super().oddities()
        for argument in self.missing_arguments:
            yield Mistake(
                place=argument, what=f"is missing, so that {self.operator} leaves the value as it is."
            )


def _check_techniques(value: Any) -> None:
    """Make sure that the labels which are no references are of PaNET."""
    for label in value if isinstance(value, list) else [value]:
        if isinstance(label, str) and "<" not in label:
            try:
                technique(label)
            except LookupError as error:
                raise ValueError(str(error)) from None


AnyVariable = NexusVariable | ScicatVariable | ValueVariable
Variable = Annotated[AnyVariable, Field(discriminator="source")]

_VARIABLE: TypeAdapter[AnyVariable] = TypeAdapter(Variable)
_VARIABLE_MODELS: Mapping[object, type[_Part]] = {
    "NXS": NexusVariable,
    "SC": ScicatVariable,
    "VALUE": ValueVariable,
}


def _read_variable(raw: Any, _: ValidatorFunctionWrapHandler) -> AnyVariable | Unusable:
    if stored := _stored(raw):
        return stored
    try:
        return _VARIABLE.validate_python(raw)
    except ValidationError as error:
        source = str(raw.get("source")) if isinstance(raw, dict) else ""
        model = _VARIABLE_MODELS.get(source)
        return _unusable(raw, error, model.known_keys() if model else _KEYS_OF_ANY_VARIABLE)


_KEYS_OF_ANY_VARIABLE = frozenset[str]().union(*(model.known_keys() for model in _VARIABLE_MODELS.values()))


class FieldAssignment(_Part):
    """Where a value goes: a field of the dataset, or an entry of its scientific metadata."""

    field_type: Literal["high_level", "scientific_metadata"]
    """`high_level`: a field of the dataset. `scientific_metadata`: an entry of its scientific metadata."""
    machine_name: Text = Field(min_length=1)
    """The name of the field or entry."""
    human_name: Text = ""
    """The entry's name for people; the machine name when not given."""
    value: Any
    """Text, a number, a list or a dict; each <name> in it becomes the value of that variable."""
    type: ValueType
    """What the value is turned into."""
    unit: Text = ""
    """The entry's unit; the variable's when not given."""

    @model_validator(mode="after")
    def _known_field(self) -> FieldAssignment:
        known = {*DATASET_FIELDS, *V4_LIST_FIELDS}
        if self.field_type == "high_level" and self.machine_name not in known:
            meant = suggestion(self.machine_name, sorted(known))
            raise ValueError(f"{self.machine_name!r} is not a field of a SciCat dataset{meant}")
        return self

    @property
    def fills(self) -> str:
        """The field or entry that gets the value, by its name in the v3 API."""
        if self.field_type == "high_level":
            return V4_LIST_FIELDS.get(self.machine_name, self.machine_name)
        return self.machine_name


PID_VARIABLE = "pid"
"""What the jobs of a schema may use besides its variables: the pid of the registered dataset."""


class JobDefinition(_Part):
    """A job that is posted once the dataset and its file list are registered. <pid> is the dataset's pid."""

    type: Text = Field(min_length=1)
    """The type of job, which the server has to know."""
    job_params: dict[Text, Any]
    """The job's parameters: a dictionary without dictionaries in it, but for those in lists. <name> is
    replaced in keys as well.
    """
    owner_user: Text = ""
    """Whose job it is."""
    owner_group: Text = ""
    """The group whose job it is; the dataset's when not given."""
    contact_email: Text = ""
    """Who is written to about the job."""

    @field_validator("job_params")
    @classmethod
    def _is_flat(cls, params: dict[str, Any]) -> dict[str, Any]:
        nested = [name for name, value in params.items() if isinstance(value, dict)]
        if nested:
            raise ValueError(f"{nested[0]} is a dictionary; use a list of dictionaries")
        return params


def _by_name(raw: object) -> object:
    """Jobs that are not a dictionary are one unusable job, and not an unusable schema."""
    return raw if isinstance(raw, dict) else {"jobs": raw}


class SampleAttachment(_Part):
    """Whether the sample that the file names is looked up in the catalogue, and where the file names it."""

    query_sample_name: bool = False
    """Whether the file's sample is looked for among the samples of its proposal."""
    sample_name_path: str = "/entry/sample/name"
    """Where the file names its sample."""
    proposal_id_path: str = "/entry/experiment_identifier"
    """Where the file names its proposal."""


class PreviewDefinition(_Part):
    """The picture that is attached to each dataset: of what, and how it is drawn."""

    enabled: bool = True
    """Whether there is one."""
    path: str = ""
    """The NXdata group or the dataset to draw, such as /entry/data. Empty: the file's default one."""
    scale: Literal["auto", "linear", "log"] = "auto"
    """The scale of the values: `linear`, `log`, or (`auto`) `log` where some are a hundred times the median
    and none is negative.
    """
    percentiles: tuple[FiniteFloat, FiniteFloat] = (0.5, 99.5)
    """Of an image, the percentiles of its values that get the first and the last colour."""
    title: Text = ""
    """The title; <name> becomes the value of that variable. Empty: the title of the data or of the entry."""

    @field_validator("percentiles")
    @classmethod
    def _in_order(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"{low:g} and {high:g} are not two percentiles, such as [0.5, 99.5]")
        return percentiles


def _as_list(raw: object) -> object:
    return raw if isinstance(raw, list | tuple) else [raw]


def _switched(raw: object) -> object:
    """`preview: false` is short for one that is not enabled."""
    return {"enabled": raw} if isinstance(raw, bool) else raw


class FilesDefinition(_Part):
    """The other files of a dataset, which its origdatablock lists with the data file."""

    linked: bool = False
    """Whether the files are listed that the data file's external links, virtual datasets and external storage
    refer to."""
    patterns: list[Text] = Field(default_factory=list)
    """Files beside the data file, relative to its folder: `*`, `?` and `[…]` as in a shell, `**` for any
    folders; <name> becomes the value of that variable."""


def _only_patterns(raw: object) -> object:
    """A list of patterns is short for nothing but these."""
    return {"patterns": raw} if isinstance(raw, list) else raw


class Schema(_Part):
    """One schema file."""

    id: Text
    """What tells this schema from all others, such as a UUID."""
    name: Text
    """The name for people."""
    extends: Annotated[
        tuple[Text, ...], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
    ] = ()
    """The base whose sections it shares, such as `common.part.yml`, or a list of bases of which a later one
    wins. What stands here in the schema wins over them, entry by entry; an entry without a value takes the
    inherited one away.
    """
    instrument: Annotated[
        str, BeforeValidator(_joined, json_schema_input_type=str | float | list[str | float])
    ] = ""
    """The instruments it is for, a list or separated by commas; for people only."""
    order: FiniteFloat
    """Schemas are asked in this order, the lowest first; the first one whose selector matches is used."""
    selector: Any
    """Which files it is for: `*`, source:operator:argument, {source, operator, operand_2}, or {and: [...]}
    and {or: [...]} of these. Every source is the full path of the file, but for
    nexus:/path:operator:argument, which is about a value in the file.
    """
    entries: Text = ""
    """Which NXentry groups of a file are a dataset each, by their names: `*`, `?` and `[…]` as in a shell.
    Empty: a file is one dataset. In paths and as a variable, <entry> is the name of the dataset's own.
    """
    sample_attachment: Annotated[
        SampleAttachment | Unusable,
        WrapValidator(_usable(SampleAttachment), json_schema_input_type=SampleAttachment),
    ] = SampleAttachment()
    """Whether and how the sample is looked up in the catalogue."""
    variables: dict[
        Text,
        Annotated[
            AnyVariable | Unusable,
            WrapValidator(_read_variable, json_schema_input_type=Variable),
        ],
    ] = Field(default_factory=dict)
    """Values by name, evaluated in this order."""
    items: dict[
        Text,
        Annotated[
            FieldAssignment | Unusable,
            WrapValidator(_usable(FieldAssignment), json_schema_input_type=FieldAssignment),
        ],
    ] = Field(alias="schema", default_factory=dict)
    """What is put where in the dataset; the keys are free names."""

    jobs: Annotated[
        dict[
            Text,
            Annotated[
                JobDefinition | Unusable,
                WrapValidator(_usable(JobDefinition), json_schema_input_type=JobDefinition),
            ],
        ],
        BeforeValidator(_by_name, json_schema_input_type=dict[Text, JobDefinition]),
    ] = Field(default_factory=dict)
    """The jobs that are posted for each dataset; the keys are free names."""

    preview: Annotated[
        PreviewDefinition | Unusable,
        WrapValidator(_usable(PreviewDefinition), json_schema_input_type=PreviewDefinition | bool),
        BeforeValidator(_switched, json_schema_input_type=PreviewDefinition | bool),
    ] = PreviewDefinition()
    """The picture that is attached to each dataset. `false`: none."""

    files: Annotated[
        FilesDefinition | Unusable,
        WrapValidator(_usable(FilesDefinition), json_schema_input_type=FilesDefinition | list[Text]),
        BeforeValidator(_only_patterns, json_schema_input_type=FilesDefinition | list[Text]),
    ] = FilesDefinition()
    """The other files of each dataset; a list is short for its patterns."""

    @property
    def assignments(self) -> dict[str, FieldAssignment]:
        """The fields that can be used."""
        return {key: item for key, item in self.items.items() if isinstance(item, FieldAssignment)}

    @property
    def unusable_fields(self) -> dict[str, Unusable]:
        """The fields that cannot be used."""
        return {key: item for key, item in self.items.items() if isinstance(item, Unusable)}

    def selects(self) -> Selector:
        """The selector, ready to be asked."""
        return read_selector(self.selector)

    def for_entry(self, name: str) -> Schema:
        """The schema for the dataset of one NXentry: the paths in it are those of its own."""

        def of_entry(text: str) -> str:
            return text.replace(_ENTRY, name)

        variables: dict[str, AnyVariable | Unusable] = {
            key: variable.model_copy(update={"path": of_entry(variable.path)})
            if isinstance(variable, NexusVariable)
            else variable
            for key, variable in self.variables.items()
        }
        changed: dict[str, Any] = {"variables": variables}
        if isinstance(wanted := self.sample_attachment, SampleAttachment):
            paths = {key: of_entry(getattr(wanted, key)) for key in _SAMPLE_PATHS}
            changed["sample_attachment"] = wanted.model_copy(update=paths)
        if isinstance(drawn := self.preview, PreviewDefinition):
            changed["preview"] = drawn.model_copy(update={"path": of_entry(drawn.path or f"/{_ENTRY}")})
        return self.model_copy(update=changed)

    def mistakes(self) -> tuple[Mistake, ...]:
        """All that is wrong with it, but for references."""
        selector = (Mistake(place="selector", what=text) for text in self.selects().mistakes())
        return (*selector, *self.oddities(), *self._unusable_items())

    def oddities(self) -> Iterator[Mistake]:
        """What is wrong with it and its parts although they can be used."""
        yield from super().oddities()
        for place, part in self._parts():
            if not isinstance(part, Unusable):
                yield from (mistake.below(place) for mistake in part.oddities())
        if not self.items:
            yield Mistake(
                place="schema", what="is missing or empty, so that every file lacks the mandatory fields."
            )
        yield from self._mistakes_of_entries()

    def _mistakes_of_entries(self) -> Iterator[Mistake]:
        of_entry = [
            name
            for name, variable in self.variables.items()
            if isinstance(variable, NexusVariable) and _ENTRY in variable.path
        ]
        if self.entries and not of_entry:
            yield Mistake(
                place="entries",
                what=f"is given, but no path has {_ENTRY}, so that all datasets of a file are alike.",
                remedy=f"Write paths such as /{_ENTRY}/title.",
            )
        for name in () if self.entries else of_entry:
            yield Mistake(
                place=f"variables.{name}",
                what=f"has {_ENTRY} in its path, but the schema does not say of which NXentry.",
                remedy='Add `entries: "*"` to the schema, for a dataset of each NXentry.',
                key="path",
            )

    def _unusable_items(self) -> Iterator[Mistake]:
        for place, part in self._parts():
            if isinstance(part, Unusable):
                yield from (mistake.below(place) for mistake in part.mistakes)

    def _parts(self) -> Iterator[tuple[str, _Part | Unusable]]:
        yield "sample_attachment", self.sample_attachment
        yield from ((f"variables.{name}", variable) for name, variable in self.variables.items())
        yield from ((f"schema.{key}", item) for key, item in self.items.items())
        yield from ((f"jobs.{name}", job) for name, job in self.jobs.items())
        yield "preview", self.preview
        yield "files", self.files

    def unused_variables(self) -> list[str]:
        """The variables on which nothing depends that is put into the dataset, in their order."""
        parts = self.model_dump(mode="json", by_alias=True)
        definitions = parts.pop("variables")
        reached: set[str] = set()
        found = set(references(parts, definitions))
        while found:
            reached |= found
            needed = [definitions.get(name) for name in found]
            found = set(references(needed, definitions)) - reached
        return [name for name in definitions if name not in reached]

    def reference_mistakes(self) -> list[Mistake]:
        """References that can never be resolved. Such a variable or field fails for every file."""
        found: list[Mistake] = []
        defined = {*BUILT_IN_VARIABLES, *((ENTRY_VARIABLE,) if self.entries else ())}
        for name, variable in self.variables.items():
            found.extend(
                Mistake(
                    place=f"variables.{name}",
                    what=self._why_undefined(name, used),
                    remedy=_DEFINE,
                    key="url" if isinstance(variable, ScicatVariable) else "value",
                )
                for used in references(_rendered_part(variable), set(self.variables))
                if used not in defined
            )
            defined.add(name)
        for key, assignment in self.assignments.items():
            found.extend(
                Mistake(place=f"schema.{key}", what=self._not_defined(used), remedy=_DEFINE, key="value")
                for used in references(assignment.value, set(self.variables))
                if used not in defined
            )
        for name, job in self.jobs.items():
            found.extend(
                Mistake(place=f"jobs.{name}", what=self._not_defined(used), remedy=_DEFINE)
                for used in references(_rendered_part_of_job(job), {*self.variables, PID_VARIABLE})
                if used not in {*defined, PID_VARIABLE}
            )
        if isinstance(self.preview, PreviewDefinition):
            found.extend(
                Mistake(place="preview", what=self._not_defined(used), remedy=_DEFINE, key="title")
                for used in references(self.preview.title, set(self.variables))
                if used not in defined
            )
        if isinstance(self.files, FilesDefinition):
            found.extend(
                Mistake(place="files", what=self._not_defined(used), remedy=_DEFINE, key="patterns")
                for used in references(self.files.patterns, set(self.variables))
                if used not in defined
            )
        return found

    def plugin_mistakes(self) -> Iterator[Mistake]:
        """Operators of other packages that cannot be used here; the packages are imported for that."""
        for name, variable in self.variables.items():
            if isinstance(variable, ValueVariable) and variable.operator:
                try:
                    operator_named(variable.operator)
                except ValueError as error:
                    yield Mistake(
                        place=f"variables.{name}",
                        what=f"the operator {variable.operator}: {error}.",
                        remedy="Repair the package, or install it again; then restart the service.",
                        key="operator",
                    )

    def _not_defined(self, used: str) -> str:
        meant = suggestion(used, (*self.variables, *BUILT_IN_VARIABLES))
        return f"uses <{used}>, which is not defined{meant or '.'}"

    def _why_undefined(self, name: str, used: str) -> str:
        if used == name:
            return f"uses itself (<{used}>), which is circular."
        if used not in self.variables:
            return self._not_defined(used)
        users = set(references(_rendered_part(self.variables[used]), set(self.variables)))
        if name in users:
            return f"uses <{used}>, which uses <{name}>: that is circular."
        return f"uses <{used}>, which is defined after it; move it up."


_SAMPLE_PATHS = ("sample_name_path", "proposal_id_path")

_DEFINE = "Write a value, or the <name> of a built-in variable or of one that is defined above."


def _rendered_part_of_job(job: JobDefinition | Unusable) -> Any:
    if isinstance(job, Unusable):
        return None
    return [job.type, job.job_params, job.owner_user, job.owner_group, job.contact_email]


def _rendered_part(variable: AnyVariable | Unusable) -> Any:
    """What of a definition is rendered before it is evaluated."""
    match variable:
        case NexusVariable() | Unusable():
            return None
        case ScicatVariable():
            return variable.url
        case ValueVariable():
            return variable.value
