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


Text = Annotated[str, BeforeValidator(_scalar_text)]


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
    path: str
    value_type: ValueType
    unit: Text = ""

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
    url: str
    field: str | int = ""
    value_type: ValueType


class ValueVariable(_Part):
    """A value put together from others."""

    source: Literal["VALUE"]
    value: Any
    operator: str = ""
    field: str | int | None = None
    pattern: Text | None = None
    replacement: Text | None = None
    value_type: ValueType

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
    machine_name: str = Field(min_length=1)
    human_name: str = ""
    value: Any
    type: ValueType
    unit: Text = ""

    @model_validator(mode="after")
    def _known_field(self) -> FieldAssignment:
        if self.field_type == "high_level" and self.machine_name not in DATASET_FIELDS:
            raise ValueError(f"{self.machine_name!r} is no field of a SciCat dataset")
        return self


class SampleAttachment(_Part):
    """Whether the sample that the file names is looked up in the catalogue, and where the file names it."""

    query_sample_name: bool = False
    sample_name_path: str = "/entry/sample/name"
    proposal_id_path: str = "/entry/experiment_identifier"


class Schema(_Part):
    """One schema file."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    id: Text = Field(min_length=1)
    name: Text = Field(min_length=1)
    instrument: Text = ""
    order: int
    selector: Any
    sample_attachment: SampleAttachment = SampleAttachment()
    variables: dict[str, Variable] = Field(default_factory=dict)
    assignments: dict[str, FieldAssignment] = Field(alias="schema", min_length=1)

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
