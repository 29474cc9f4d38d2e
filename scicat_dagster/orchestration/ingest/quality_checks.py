"""The asset checks of ``raw_dataset``: how the UI shows the verdicts of ``quality``.

They are evaluated within the run that registers a file, where everything is at hand; executed by hand they
look at the latest files again.
"""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import dagster as dg

from scicat_dagster.dagster_internals import AssetCheckExecutionRecordStatus
from scicat_dagster.dataset.build import BuiltDataset
from scicat_dagster.dataset.rebuild import build_again, extract_again
from scicat_dagster.errors import IngestionError, Notice
from scicat_dagster.orchestration.facility import Facility, facility_in
from scicat_dagster.orchestration.metadata import entry_in, jobs_in, notices_table
from scicat_dagster.orchestration.names import UNPREFIXED, Names
from scicat_dagster.orchestration.partitions import path_of
from scicat_dagster.orchestration.tags import PID, RAW_DATASET
from scicat_dagster.scicat.models import PostedJob
from scicat_dagster.usecases.quality import CATALOGUE_AGREES, QUESTIONS, Verdict, judge
from scicat_dagster.wording import numbered

_MOST_FINDINGS = 200
_LATEST_FILES = 20
_SAID_AGAIN_SECONDS = 60

JOBS_POSTED = "jobs_posted"

_JOBS_ARE_POSTED = "The jobs of the file's schema are posted. The dataset is registered all the same."


def news(
    facility: Facility,
    instance: dg.DagsterInstance,
    registered: Mapping[str, BuiltDataset],
    created: Set[str] = frozenset(),
) -> Iterator[dg.AssetCheckEvaluation]:
    """The verdicts on datasets that were just registered, by pid, that say anything new.

    ``created`` are those that the server has just answered to have created exactly as they were sent. They
    are read once more only if nobody has done so with others within the last minute: in a burst that would
    be a third of the requests.

    That all is well is said once a minute by each process: in a burst it would be a fifth of a run's events.
    For ``facility.finding_seconds`` after a finding it is not said at all, because the next file, of another
    instrument, would hide what a person should see. Executed by hand, a check says what it finds now.
    """
    now = time.monotonic()

    def was_just_good(question: str) -> bool:
        return now - facility.found_good_at.get(question, -math.inf) < _SAID_AGAIN_SECONDS

    is_known = was_just_good(CATALOGUE_AGREES) and created >= registered.keys()
    questions = QUESTIONS.keys() - ({CATALOGUE_AGREES} if is_known else ())
    for evaluation in evaluations(facility, registered, questions):
        question = evaluation.check_name
        if evaluation.passed:
            if was_just_good(question):
                continue
            facility.found_good_at[question] = now
            if _is_finding_in_sight(instance, question, facility):
                continue
        yield evaluation


def job_news(
    jobs: Mapping[str, Sequence[PostedJob]], names: Names = UNPREFIXED
) -> Iterator[dg.AssetCheckEvaluation]:
    """What became of the jobs of a run's datasets, by their sources; nothing where no schema has any."""
    if any(jobs.values()):
        yield _job_evaluation(jobs, names)


def _job_evaluation(jobs: Mapping[str, Sequence[PostedJob]], names: Names) -> dg.AssetCheckEvaluation:
    posted = [(source, job) for source, those in jobs.items() for job in those]
    failed = [(source, job) for source, job in posted if job.state not in {"posted", "was there"}]
    findings = [
        Notice(subject=f"{Path(source).name}: {job.name}", reason=job.reason) for source, job in failed
    ]
    return dg.AssetCheckEvaluation(
        asset_key=names.key(RAW_DATASET),
        check_name=JOBS_POSTED,
        passed=not findings,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(findings)} of {len(posted)} jobs are not posted. The datasets are registered.",
        metadata={
            "files": dg.MetadataValue.int(len(jobs)),
            **({"findings": notices_table(findings[:_MOST_FINDINGS])} if findings else {}),
        },
    )


def _is_finding_in_sight(instance: dg.DagsterInstance, question: str, facility: Facility) -> bool:
    key = dg.AssetCheckKey(facility.names.key(RAW_DATASET), question)
    latest = instance.get_latest_asset_check_evaluation_record(key)
    return (
        latest is not None
        and latest.status is AssetCheckExecutionRecordStatus.FAILED
        and time.time() - latest.create_timestamp < facility.finding_seconds
    )


def evaluations(
    facility: Facility, registered: Mapping[str, BuiltDataset], questions: Collection[str] = tuple(QUESTIONS)
) -> Iterator[dg.AssetCheckEvaluation]:
    """All verdicts on registered datasets, by pid."""
    endpoints = facility.settings.scicat.api_endpoints
    for verdict in judge(registered, facility.catalogue, facility.answers, endpoints, questions):
        yield dg.AssetCheckEvaluation(
            asset_key=facility.names.key(RAW_DATASET),
            check_name=verdict.question,
            passed=verdict.is_good,
            # The file is in the catalogue: a person should look, but nothing is broken.
            severity=dg.AssetCheckSeverity.WARN,
            description=_words(verdict),
            metadata=_shown(verdict, registered.values()),
        )


def _words(verdict: Verdict) -> str:
    if verdict.unanswered:
        return f"Nobody could tell: {verdict.unanswered}"
    return (
        f"{numbered(len(verdict.findings), 'finding')}." if verdict.findings else QUESTIONS[verdict.question]
    )


def _shown(verdict: Verdict, built: Iterable[BuiltDataset]) -> dict[str, dg.MetadataValue]:
    files = [dataset.data_file for dataset in built]
    shown: dict[str, dg.MetadataValue] = {"files": dg.MetadataValue.int(len(files))}
    if len(files) == 1:
        shown["file"] = dg.MetadataValue.text(files[0])
    if verdict.findings:
        shown["findings"] = notices_table(verdict.findings[:_MOST_FINDINGS])
    return shown


def latest_files(names: Names) -> dg.AssetChecksDefinition:
    """The checks, executed by hand."""

    @dg.multi_asset_check(
        name=names.name("latest_files"),
        specs=[
            dg.AssetCheckSpec(name, asset=names.key(RAW_DATASET), description=text)
            for name, text in {**QUESTIONS, JOBS_POSTED: _JOBS_ARE_POSTED}.items()
        ],
        required_resource_keys={names.facility},
        can_subset=True,
        description=f"Looks at the {_LATEST_FILES} files again that were registered last. The run of each "
        "file evaluates the same checks.",
    )
    def latest_files(
        context: dg.AssetCheckExecutionContext,
    ) -> Iterator[dg.AssetCheckResult]:
        facility = facility_in(context, names)
        registered = {}
        jobs = {}
        records = context.instance.fetch_materializations(names.key(RAW_DATASET), limit=_LATEST_FILES).records
        if records and records[0].run_id == context.run.run_id:
            # A run that was started from the asset's page has evaluated them already.
            return
        for record in records:
            materialization = record.asset_materialization
            if materialization is not None and materialization.partition:
                handling, pid = facility.settings.ingestion.file_handling, materialization.metadata[PID].value
                path = path_of(materialization.partition, handling.data_directory)
                entry = entry_in(materialization.metadata)
                try:
                    extracted = extract_again(path, facility.schemas(), facility.catalogue, facility.settings)
                    built = build_again(extracted, facility.settings)
                except IngestionError as error:
                    context.log.warning("%s: %s", materialization.partition, error)
                    jobs[materialization.partition] = jobs_in(materialization.metadata)
                    continue
                # None where the schema makes other datasets of the file by now.
                for dataset in (dataset for dataset in built if dataset.entry == entry):
                    registered[str(pid)] = dataset
                    jobs[dataset.source] = jobs_in(materialization.metadata)
        for evaluation in (*evaluations(facility, registered), _job_evaluation(jobs, names)):
            if (
                dg.AssetCheckKey(evaluation.asset_key, evaluation.check_name)
                not in context.selected_asset_check_keys
            ):
                continue
            yield dg.AssetCheckResult(
                check_name=evaluation.check_name,
                passed=evaluation.passed,
                severity=evaluation.severity,
                description=evaluation.description,
                metadata=evaluation.metadata,
            )

    return latest_files
