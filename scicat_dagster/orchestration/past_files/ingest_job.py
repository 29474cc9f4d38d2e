"""The job ``ingest_files``: files that a person names in the launchpad, each registered by a run of its own.

The command ``ingest`` does the same in its own process (``by_hand``); here the runs are requested, because an
op cannot launch any, and ``reconcile_sensor`` starts them.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.paths import canonical_path
from scicat_dagster.orchestration.facility import facility_in
from scicat_dagster.orchestration.failures.policy import explained
from scicat_dagster.orchestration.metadata import table
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.partitions import key_of, path_of
from scicat_dagster.orchestration.past_files.backfills import add_partitions
from scicat_dagster.orchestration.past_files.requests import request_events
from scicat_dagster.orchestration.tags import BY_HAND, OWNERS, PAST_FILES, kinds
from scicat_dagster.patience import answered


class IngestFilesConfig(dg.Config):
    """Which files to register now."""

    paths: list[str]


def request_files(names: Names) -> dg.OpDefinition:
    """The op of the job."""

    @dg.op(
        name=names.name("request_files"),
        required_resource_keys={names.facility},
        out=dg.Out(dg.Nothing),
        tags=kinds("hdf5"),
        description="Add a partition for each file and request a run for it; `reconcile_sensor` starts the "
        "runs.",
    )
    def request_files(context: dg.OpExecutionContext, config: IngestFilesConfig) -> None:
        facility = facility_in(context, names)
        keys, mistakes = _sorted_out(config.paths, facility.settings.ingestion.file_handling.data_directory)
        add_partitions(context.instance, keys, names)
        for event in request_events(keys, BY_HAND, names=names):
            context.log_event(event)
        context.add_output_metadata(
            {
                "requested files": table(("file",), ((key,) for key in keys)),
                "not requested": table(("path", "why"), mistakes),
                "what next": "Runs lists a run for each file within half a minute.",
            }
        )
        with explained(context, facility.op_pauses):
            if not config.paths:
                raise PermanentError(
                    "No path is given.", remedy="Write the files below `paths` in the launchpad."
                )
            if mistakes:
                raise PermanentError(
                    f"{len(mistakes)} of {len(config.paths)} paths cannot be registered: "
                    + " ".join(why for _, why in mistakes),
                    remedy="Correct these paths; the other files are requested.",
                )

    return request_files


def _sorted_out(paths: Sequence[str], data_directory: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The partition keys of the files that are there, and why there are none of the others."""
    keys: dict[str, None] = {}
    mistakes = []
    for given in dict.fromkeys(path.strip() for path in paths if path.strip()):
        try:
            path = canonical_path(path_of(given, data_directory), data_directory)
        except ValueError as error:
            mistakes.append((given, str(error)))
            continue
        if _may_be_a_file(path):
            keys[key_of(path, data_directory)] = None
        else:
            mistakes.append((given, f"{path} is not there, or not a file."))
    return list(keys), mistakes


def _may_be_a_file(path: str) -> bool:
    """Whether a path is a file, or its storage does not say so: its run tells what is wrong then."""
    try:
        return answered(path, Path(path).is_file)
    except (OSError, TransientError):
        return True


_PATHS = (
    "The NeXus files to register: absolute paths, or paths within `ingestion.file_handling.data_directory`, "
    "one in each line after a dash."
)


def _only_paths(names: Names) -> dg.ConfigMapping:
    """The launchpad asks for the paths, and for nothing around them."""

    # Not the model above, for which the launchpad would show an alternative to each path.
    @dg.config_mapping(config_schema={"paths": dg.Field([str], default_value=[], description=_PATHS)})
    def only_paths(config: dict[str, list[str]]) -> dict[str, Any]:
        return {"ops": {names.name("request_files"): {"config": config}}}

    return only_paths


@cache
def ingest_files(names: Names) -> dg.JobDefinition:
    """The job."""

    @dg.job(
        name=names.name("ingest_files"),
        config=_only_paths(names),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=PAST_FILES,
        run_tags={},
        description="Register the NeXus files that the launchpad names, each by a run of its own. Partitions "
        "are added; a file that is registered already stays as it is.",
    )
    def ingest_files() -> None:
        request_files(names)()

    return ingest_files
