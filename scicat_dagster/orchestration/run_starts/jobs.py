"""The job that makes the sample of one run."""

import dagster as dg

from scicat_dagster.orchestration.run_starts.assets import sample
from scicat_dagster.orchestration.tags import MAKE_SAMPLE, OWNERS, PURPOSE_RUN_TAG, SAMPLES

make_sample = dg.define_asset_job(
    MAKE_SAMPLE,
    selection=dg.AssetSelection.assets(sample),
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=SAMPLES,
    run_tags={PURPOSE_RUN_TAG: SAMPLES["purpose"]},
    description="Make the sample of a run that has started, where SciCat has it not.",
)
