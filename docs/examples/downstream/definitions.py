"""A project downstream of ``raw_dataset``: the counts in each new file, soon after it is registered.

It imports nothing of scicat_dagster: what it uses is the contract of docs/how-to/use-datasets-downstream.md.
``COUNTS_DIRECTORY`` in the environment is the folder where the results go.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import h5py

RAW_DATASET = dg.AssetSpec("raw_dataset", partitions_def=dg.DynamicPartitionsDefinition(name="nexus_files"))
"""The asset of the other code location: Dagster's lineage joins them by its key."""


@dg.asset(
    deps=[RAW_DATASET],
    partitions_def=RAW_DATASET.partitions_def,
    automation_condition=dg.AutomationCondition.eager(),
    kinds={"hdf5"},
    description="The sum and the maximum of each NXdata signal of a registered NeXus file, as JSON.",
)
def counts(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    """Sum the signals of one file. A file may be materialized again, and the result is then replaced."""
    pid, file = registered(context.instance, context.partition_key)
    found = [{"signal": name, "sum": total, "maximum": most} for name, total, most in signals(file)]
    # The path within the data directory is unique; its name alone is not.
    result = Path(os.environ["COUNTS_DIRECTORY"]) / f"{context.partition_key.strip('/')}.counts.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({"pid": pid, "file": str(file), "signals": found}, indent=2))
    return dg.MaterializeResult(
        metadata={
            "pid": pid,
            "result": dg.MetadataValue.path(str(result)),
            "signals": dg.MetadataValue.json(found),
        }
    )


def registered(instance: dg.DagsterInstance, key: str) -> tuple[str, Path]:
    """The dataset's pid and the path of the file, from the latest materialization of this partition."""
    wanted = dg.AssetRecordsFilter(RAW_DATASET.key, asset_partitions=[key])
    latest = instance.fetch_materializations(wanted, limit=1).records
    if not latest or latest[0].asset_materialization is None:
        raise dg.Failure(f"{key} is not registered.", allow_retries=False)
    metadata = latest[0].asset_materialization.metadata
    return str(metadata["pid"].value), Path(str(metadata["file"].value))


def signals(file: Path) -> Iterator[tuple[str, float, float]]:
    """The path within the file, the sum and the maximum of each NXdata signal."""
    with h5py.File(file) as opened:
        groups: list[h5py.Group] = []
        opened.visititems(lambda _, item: groups.append(item) if is_data(item) else None)
        for group in groups:
            signal = group.get(group.attrs.get("signal", "data"))
            if isinstance(signal, h5py.Dataset) and signal.size and signal.dtype.kind in "iuf":
                values = signal[()]
                yield signal.name, float(values.sum()), float(values.max())


def is_data(item: h5py.Group | h5py.Dataset) -> bool:
    """Whether something in the file is a group of the class NXdata."""
    return isinstance(item, h5py.Group) and item.attrs.get("NX_class") in {"NXdata", b"NXdata"}


each_new_file = dg.AutomationConditionSensorDefinition(
    "each_new_file",
    target=dg.AssetSelection.assets(counts),
    # On from the start; Dagster's own default_automation_condition_sensor has to be switched on.
    default_status=dg.DefaultSensorStatus.RUNNING,
    # Registering what was just measured comes first.
    run_tags={"dagster/priority": "-10"},
)


# With the asset of the other code location: if its partitions were not known here, each registration would be
# taken for a change of all files.
defs = dg.Definitions(assets=[RAW_DATASET, counts], sensors=[each_new_file])
