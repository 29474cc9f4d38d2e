"""Checking a facility's configuration and all its schemas before anything is run with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scicat_dagster.errors import PermanentError
from scicat_dagster.schemas.loading import SchemaCollection, SchemaFile, load_schemas
from scicat_dagster.settings import Configuration, ConfigurationError, load_configuration, unknown_keys


@dataclass
class Report:
    """What is wrong, each line with file, place and remedy; and how much was looked at."""

    mistakes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    schemas: int = 0

    @property
    def checked(self) -> str:
        """What was looked at, in words."""
        return f"the configuration and {self.schemas} schemas"


def validate_facility(config: Path, environment: Mapping[str, str]) -> Report:
    """Check a configuration file, the schemas directory and every schema in it. Never raises."""
    report = Report()
    try:
        configuration = load_configuration(config, environment)
    except ConfigurationError as error:
        report.mistakes += [f"{error.path}: {mistake}" for mistake in error.mistakes]
        return report
    _check_keys(configuration, report)
    try:
        schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
    except PermanentError as error:
        report.mistakes.append(f"{configuration.path}: {error}")
        return report
    _check_schemas(schemas, report)
    return report


def _check_keys(configuration: Configuration, report: Report) -> None:
    unknown = unknown_keys(configuration)
    report.mistakes += [f"{configuration.path}: {warning} Remove or correct it." for warning in unknown]
    report.warnings += [
        f"{configuration.path}: {warning}" for warning in configuration.warnings if warning not in unknown
    ]


def _check_schemas(schemas: SchemaCollection, report: Report) -> None:
    files = [*schemas.files, *([schemas.fallback] if schemas.fallback else [])]
    report.schemas = len(files)
    for file in files:
        report.mistakes += [f"{file.path}: {mistake}" for mistake in _mistakes(file)]
    report.mistakes += [f"{schemas.directory}: {notice.reason}" for notice in schemas.duplicate_ids()]
    if not schemas.files and schemas.fallback is None:
        report.mistakes.append(f"{schemas.directory}: holds no schema file (*.imsc.yml); add one.")


def _mistakes(file: SchemaFile) -> list[str]:
    return [*file.mistakes, *(file.schema.reference_mistakes() if file.schema else ())]
