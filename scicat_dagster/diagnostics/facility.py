"""The configuration file and all schemas, as far as reading them tells."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from scicat_dagster.config.loading import Configuration, ConfigurationError, load_configuration
from scicat_dagster.config.overrides import Overrides
from scicat_dagster.dataset.samples import SampleSource
from scicat_dagster.diagnostics.files import UnaskedCatalogue, check_file
from scicat_dagster.diagnostics.report import Report
from scicat_dagster.diagnostics.servers import check_directories, check_kafka, check_scicat
from scicat_dagster.errors import PermanentError
from scicat_dagster.schemas.loading import SchemaCollection, load_schemas
from scicat_dagster.schemas.plugins import names_taken
from scicat_dagster.scicat.client import ScicatClient


@dataclass(frozen=True)
class Facility:
    """A configuration and its schemas, which may hold mistakes."""

    configuration: Configuration
    schemas: SchemaCollection


def validate_facility(
    config: Path,
    environment: Mapping[str, str],
    against: tuple[Path, ...] = (),
    overrides: Overrides = MappingProxyType({}),
) -> Report:
    """Check a configuration file and every schema, then real files, and ask no server. Never raises.

    Files are looked at only where the configuration and the schemas directory can be read.
    """
    report = Report(config=str(config.absolute()))
    facility = check_facility(config, environment, report, overrides)
    if facility is not None:
        _check_files(facility, against, UnaskedCatalogue(), report)
    return report


def validate_live_facility(
    config: Path,
    environment: Mapping[str, str],
    against: tuple[Path, ...] = (),
    overrides: Overrides = MappingProxyType({}),
) -> Report:
    """As :func:`validate_facility`, and look at the servers and folders that the configuration names, too."""
    report = Report(config=str(config.absolute()))
    facility = check_facility(config, environment, report, overrides)
    if facility is None:
        what = "No server was asked and no folder looked at."
        report.add("configuration", "unchecked", what, "Correct the above, then run this again.")
        return report
    settings = facility.configuration.settings
    with closing(ScicatClient(settings.scicat)) as client:
        check_kafka(settings.kafka, report)
        check_scicat(settings, facility.schemas, client, report)
        check_directories(settings.ingestion.file_handling, against, report)
        _check_files(facility, against, client, report)
    return report


def _check_files(
    facility: Facility, files: tuple[Path, ...], catalogue: SampleSource, report: Report
) -> None:
    for file in files:
        check_file(file, facility.schemas, catalogue, facility.configuration.settings, report)


def check_facility(
    config: Path,
    environment: Mapping[str, str],
    report: Report,
    overrides: Overrides = MappingProxyType({}),
) -> Facility | None:
    """Check what is written; None where so little can be read that nothing else can be looked at."""
    try:
        configuration = load_configuration(config, environment, overrides)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            report.add("configuration", "mistake", f"{error.path}: {mistake}", _SEE_SAMPLE)
        return None
    _check_keys(configuration, report)
    try:
        schemas = load_schemas(configuration.schemas_directory, configuration.fallback_schema)
    except PermanentError as error:
        report.failed("configuration", error, str(configuration.path))
        return None
    _check_schemas(schemas, report)
    return Facility(configuration, schemas)


_SEE_SAMPLE = "Correct it; `scicat-dagster schema sample-config` shows every key with its meaning."


def _check_keys(configuration: Configuration, report: Report) -> None:
    for warning in configuration.warnings:
        if warning in configuration.mistakes:
            report.add(
                "configuration", "mistake", f"{configuration.path}: {warning}", "Remove or correct it."
            )
        else:
            report.add("configuration", "warning", f"{configuration.path}: {warning}")
    if not configuration.mistakes:
        report.add("configuration", "ok", str(configuration.path))


def _check_schemas(schemas: SchemaCollection, report: Report) -> None:
    files = [*schemas.files, *([schemas.fallback] if schemas.fallback else [])]
    report.schemas = len(files)
    of_bases = set()
    for file in files:
        mistakes = file.located_mistakes()
        for mistake in mistakes:
            if mistake in of_bases:
                continue
            if mistake.file is not None:
                of_bases.add(mistake)
            place = f"line {mistake.line}: " if mistake.line else ""
            remedy = mistake.remedy or "Correct it in the schema."
            report.add("schema", "mistake", f"{place}{mistake}", remedy, str(mistake.file or file.path))
        if not mistakes:
            report.add("schema", "ok", file.name, file=str(file.path))
            if unused := file.unused_variables():
                report.add("schema", "ok", f"not used by any field: {', '.join(unused)}", file=str(file.path))
    _check_packages(report)
    for notice in schemas.duplicate_ids():
        report.add("schema", "mistake", f"{schemas.directory}: {notice.reason}")
    if not files:
        report.add("schema", "mistake", f"{schemas.directory}: holds no schema file (*.imsc.yml); add one.")


def _check_packages(report: Report) -> None:
    """Say which operators of installed packages are not used."""
    try:
        taken = names_taken()
    except ValueError as error:
        what = f"No operator of a package can be used: {error}."
        report.add("schema", "warning", what, "Repair or uninstall the package whose entry points are wrong.")
        return
    for sentence in taken:
        report.add("schema", "warning", sentence, "Give it another name in the package.")
