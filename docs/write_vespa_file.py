"""Write the NeXus file of the tutorial *VESPA in 20 minutes*: ``python docs/write_vespa_file.py``.

It has what a spectrometer's file writer writes, in some 60 kB: always the same, so that the tutorial's
numbers hold. The measurement is invented.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

FILE = Path(__file__).parent / "tutorials" / "vespa" / "raw" / "700123_27.nxs"

START, END = "2026-11-20T08:15:00.000Z", "2026-11-20T08:55:00.000Z"
_SECONDS = 2400


def main() -> None:
    """Write the file where the tutorial has it."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write(FILE)


def write(path: Path) -> None:
    """Write the file; what is in it does not depend on time or place."""
    noise = np.random.default_rng(27)
    with h5py.File(path, "w", track_order=False) as file:
        entry = _group(file, "entry", "NXentry")
        for name, value in {
            "title": "Ice Ih at 10 K, run 27 of 40",
            "definition": "NXspe",
            "start_time": START,
            "end_time": END,
            "entry_identifier": "27",
            "entry_identifier_uuid": "6f1d3c56-5a0e-4c57-9d0a-0a8f6f1f2b27",
            "experiment_identifier": "700123",
            "experiment_description": "Vibrations of hydrogen in ice",
        }.items():
            _value(entry, name, value)
        for number, name in enumerate(("Marie Curie", "Lise Meitner"), 1):
            user = _group(entry, f"user_{number}", "NXuser")
            _value(user, "name", name)
            _value(user, "affiliation", "European Spallation Source")
        _write_sample(_group(entry, "sample", "NXsample"), noise)
        _write_instrument(_group(entry, "instrument", "NXinstrument"), noise)
        monitor = _group(entry, "monitor", "NXmonitor")
        _value(monitor, "total_counts", np.int64(812345), "counts")


def _write_sample(sample: h5py.Group, noise: np.random.Generator) -> None:
    _value(sample, "name", "Ice Ih, annealed")
    _value(sample, "chemical_formula", "H2O")
    _value(sample, "mass", 1.25, "g")
    log = _group(sample, "temperature_log", "NXlog")
    _value(log, "time", np.linspace(0, _SECONDS, 240), "s")
    log["time"].attrs["start"] = START
    _value(log, "value", 10 + noise.normal(0, 0.02, 240), "K")


def _write_instrument(instrument: h5py.Group, noise: np.random.Generator) -> None:
    _value(instrument, "name", "VESPA")
    source = _group(instrument, "source", "NXsource")
    _value(source, "power", 2.0, "MW")
    _value(source, "frequency", 14.0, "Hz")
    for name, speed in (("pulse_shaping_chopper", 210.0), ("frame_overlap_chopper", 14.0)):
        chopper = _group(instrument, name, "NXdisk_chopper")
        _value(chopper, "rotation_speed", speed, "Hz")
    events = _group(_group(instrument, "bank_1", "NXdetector"), "bank_1_events", "NXevent_data")
    pixels = np.clip(noise.normal(512, 16, 4000), 1, 1024).astype(np.int32)
    events.create_dataset("event_id", data=pixels, compression="gzip", chunks=(4000,), track_times=False)
    offsets = noise.integers(0, 71_000, 4000).astype(np.int32) * 1000
    events.create_dataset(
        "event_time_offset", data=offsets, compression="gzip", chunks=(4000,), track_times=False
    )
    events["event_time_offset"].attrs["units"] = "ns"


def _group(parent: h5py.Group, name: str, nexus_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _value(group: h5py.Group, name: str, value: Any, units: str = "") -> None:
    group.create_dataset(name, data=value, track_times=False)
    if units:
        group[name].attrs["units"] = units


if __name__ == "__main__":
    main()
