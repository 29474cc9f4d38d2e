"""The shape of one schema file, as pydantic models. Reading files belongs to ``loading``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from scicat_dagster.schemas.conversion import ValueType
from scicat_dagster.schemas.operators import OPERATORS, Arguments, canonical_name
from scicat_dagster.schemas.rendering import references
from scicat_dagster.schemas.selection import Selector, parse_selector

BUILT_IN_VARIABLES = (
    "ingestor_run_id",
    "data_file_path",
    "data_file_name",
    "now",
    "ingestor_files_directory",
    "ingestor_metadata_schema_id",
    "message_job_id",
    "message_service_id",
    "message_metadata",
)
"""Defined before a schema's own; the last three only when the file was announced by a message."""

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


def _scalar_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


# The input type is for the JSON Schema, which tells editors what else may be written.
Text = Annotated[str, BeforeValidator(_scalar_text, json_schema_input_type=str | float)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _blank_is_default(cls, raw: Any) -> Any:
        """A key without a value has its default, as in the configuration file."""
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or key == "value"}


class NexusVariable(_Part):
    """A value in the NeXus file; a path component with ``*`` is searched as a regular expression."""

    source: Literal["NXS"]
    """`NXS`: the value is read from the NeXus file."""
    path: str
    """Where it is in the file, such as /entry/title. A component with * is searched as a regular expression
    in the names there; * alone is every name.
    """
    value_type: ValueType
    """What the value is turned into; types that end in [] and `list` take every value found."""
    unit: Text = ""
    """The unit, if the file has no `units` attribute there."""

    @field_validator("path")
    @classmethod
    def _wildcards_are_expressions(cls, path: str) -> str:
        for component in path.split("/"):
            if "*" in component and component != "*":
                try:
                    re.compile(component)
                except re.error as error:
                    raise ValueError(f"component {component!r} is no regular expression ({error})") from None
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

    @property
    def arguments(self) -> Arguments:
        """What the operator is given beside the value."""
        return Arguments(self.field, self.pattern, self.replacement)

    @field_validator("operator", mode="before")
    @classmethod
    def _known_operator(cls, name: object) -> object:
        if not name:
            return ""
        if not isinstance(name, str) or canonical_name(name) not in OPERATORS:
            raise ValueError(f"unknown operator {name!r}; known are {', '.join(sorted(OPERATORS))}")
        return canonical_name(name)

    @model_validator(mode="after")
    def _has_arguments(self) -> ValueVariable:
        if self.operator:
            for argument in OPERATORS[self.operator].needs:
                if getattr(self, argument) is None:
                    raise ValueError(f"the operator {self.operator} needs `{argument}`")
        if self.operator == "regex" and self.pattern is not None:
            try:
                expression = re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is no regular expression ({error})") from None
            if not expression.groups:
                raise ValueError(f"pattern {self.pattern!r} has no group; put what you want in ( )")
        return self


Variable = Annotated[NexusVariable | ScicatVariable | ValueVariable, Field(discriminator="source")]


class FieldAssignment(_Part):
    """Where a value goes: a field of the dataset, or an entry of its scientific metadata."""

    field_type: Literal["high_level", "scientific_metadata"]
    """`high_level`: a field of the dataset. `scientific_metadata`: an entry of its scientific metadata."""
    machine_name: str = Field(min_length=1)
    """The name of the field or entry."""
    human_name: str = ""
    """The entry's name for people; the machine name when not given."""
    value: Any
    """Text, a number, a list or a dict; each <name> in it becomes the value of that variable."""
    type: ValueType
    """What the value is turned into."""
    unit: Text = ""
    """The entry's unit; the variable's when not given."""

    @model_validator(mode="after")
    def _known_field(self) -> FieldAssignment:
        if self.field_type == "high_level" and self.machine_name not in DATASET_FIELDS:
            raise ValueError(f"{self.machine_name!r} is no field of a SciCat dataset")
        return self


class SampleAttachment(_Part):
    """Whether the sample that the file names is looked up in the catalogue, and where the file names it."""

    query_sample_name: bool = False
    """Whether the file's sample is looked for among the samples of its proposal."""
    sample_name_path: str = "/entry/sample/name"
    """Where the file names its sample."""
    proposal_id_path: str = "/entry/experiment_identifier"
    """Where the file names its proposal."""


class Schema(_Part):
    """One schema file."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    id: Text = Field(min_length=1)
    """What tells this schema from all others, such as a UUID."""
    name: Text = Field(min_length=1)
    """The name for people."""
    instrument: Text = ""
    """The instruments it is for, separated by commas; for people only."""
    order: int
    """Schemas are asked in this order, the lowest first; the first one whose selector matches is used."""
    selector: Any
    """Which files it is for: `*`, source:operator:argument, {source, operator, operand_2}, or {and: [...]}
    and {or: [...]} of these. Every source is the full path of the file.
    """
    sample_attachment: SampleAttachment = SampleAttachment()
    """Whether and how the sample is looked up in the catalogue."""
    variables: dict[str, Variable] = Field(default_factory=dict)
    """Values by name, evaluated in this order."""
    assignments: dict[str, FieldAssignment] = Field(alias="schema", min_length=1)
    """What is put where in the dataset; the keys are free names."""

    @field_validator("selector")
    @classmethod
    def _parses(cls, raw: Any) -> Any:
        parse_selector(raw)
        return raw

    @field_validator("variables")
    @classmethod
    def _own_names(cls, variables: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(set(variables) & set(BUILT_IN_VARIABLES)):
            raise ValueError(f"{', '.join(taken)}: built-in names cannot be defined again")
        return variables

    def selects(self) -> Selector:
        """The selector, ready to be asked."""
        return parse_selector(self.selector)

    def reference_mistakes(self) -> list[str]:
        """References that can never be resolved. Such a variable or field fails for every file."""
        found: list[str] = []
        defined = set(BUILT_IN_VARIABLES)
        for name, variable in self.variables.items():
            found.extend(
                f"variables.{name}: {self._why_undefined(name, used)}"
                for used in references(_rendered_part(variable), set(self.variables))
                if used not in defined
            )
            defined.add(name)
        for key, assignment in self.assignments.items():
            found.extend(
                f"schema.{key}: uses <{used}>, which is not defined."
                for used in references(assignment.value, set(self.variables))
                if used not in defined
            )
        return found

    def _why_undefined(self, name: str, used: str) -> str:
        if used == name:
            return f"uses itself (<{used}>), which is circular."
        if used not in self.variables:
            return f"uses <{used}>, which is not defined."
        users = set(references(_rendered_part(self.variables[used]), set(self.variables)))
        if name in users:
            return f"uses <{used}>, which uses <{name}>: that is circular."
        return f"uses <{used}>, which is defined after it; move it up."


def _rendered_part(variable: NexusVariable | ScicatVariable | ValueVariable) -> Any:
    """What of a definition is rendered before it is evaluated."""
    match variable:
        case NexusVariable():
            return None
        case ScicatVariable():
            return variable.url
        case ValueVariable():
            return variable.value
