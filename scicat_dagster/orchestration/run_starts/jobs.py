"""The job that makes the sample of one run."""

from functools import cache

import dagster as dg

from scicat_dagster.dagster_internals import UnresolvedAssetJobDefinition
from scicat_dagster.orchestration.names import Names
from scicat_dagster.orchestration.run_starts.assets import sample
from scicat_dagster.orchestration.tags import MAKE_SAMPLE, OWNERS, PURPOSE_RUN_TAG, SAMPLES


@cache
def make_sample(names: Names) -> UnresolvedAssetJobDefinition:
    """The job."""
    return dg.define_asset_job(
        names.name(MAKE_SAMPLE),
        selection=dg.AssetSelection.assets(sample(names)),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=SAMPLES,
        run_tags={PURPOSE_RUN_TAG: names.name(SAMPLES["purpose"])},
        description="Make the sample of a run that has started, where SciCat has it not.",
    )
