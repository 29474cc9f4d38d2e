"""How a planned measurement becomes a NeXus file, in the two steps of a facility's file writer.

Here: the layout of the file's content. Not here: what the content is (``measurement``), where the file goes
and who hears of it (``demo.file_writer``).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from scicat_dagster.demo.measurement import PlannedFile

_PULSES_PER_SECOND = 14
_EVENTS_PER_CHUNK = 8192
_TEMPERATURE_READINGS = 120


def write_beginning(file: h5py.File, plan: PlannedFile) -> None:
    """Write into an empty file all that is known when the measurement is over and its job is to be closed."""
    file.attrs["default"] = "entry"
    file.attrs["file_time"] = _iso(plan.start_time)
    entry = _group(file, "entry", "NXentry")
    entry["title"] = plan.title
    # The real files hold strings of both kinds, of variable and of fixed length.
    entry["definition"] = np.bytes_(plan.proposal.instrument.definition)
    entry["start_time"] = _iso(plan.start_time)
    entry["entry_identifier"] = str(plan.run_number)
    entry["entry_identifier_uuid"] = plan.job_id
    entry["experiment_identifier"] = plan.proposal.proposal_id
    entry["experiment_description"] = plan.proposal.title
    entry["program_name"] = "scicat_dagster demo file writer"
    for user in plan.users:
        group = _group(entry, f"user_{user.user_id}", "NXuser")
        group["name"] = user.name
        group["affiliation"] = user.affiliation
        group["email"] = user.email
        group["facility_user_id"] = user.user_id
    sample = _group(entry, "sample", "NXsample")
    sample["name"] = plan.sample
    sample["depends_on"] = "."
    _quantity(sample, "temperature", plan.temperature_kelvin, "K")
    _write_instrument(entry, plan)


def write_frame(file: h5py.File, plan: PlannedFile, angle: float) -> None:
    """Write one frame of a tomography, which its master file links to."""
    frames = _group(file, "frames", "NXdata")
    frames.attrs["signal"] = "counts"
    _quantity(frames, "counts", _picture(plan, angle), "counts")
    _quantity(frames, "rotation_angle", angle, "deg")


def link_frames(file: h5py.File, plan: PlannedFile, names: Iterable[str]) -> None:
    """Link the frames, by the names of their files."""
    detector = file["entry/instrument"][plan.proposal.instrument.detector]
    for number, name in enumerate(names, start=1):
        detector[f"frames_{number}"] = h5py.ExternalLink(name, "/frames")


def write_end(file: h5py.File, plan: PlannedFile) -> None:
    """Add what a file writer writes last: end time, monitor, and the log of the sample's temperature."""
    entry = file["entry"]
    entry["end_time"] = _iso(plan.end_time)
    monitor = _group(entry, "monitor", "NXmonitor")
    _quantity(monitor, "total_counts", plan.event_count * 40, "counts")
    log = _group(entry["sample"], "temperature_log", "NXlog")
    seconds = np.linspace(0, _duration(plan), _TEMPERATURE_READINGS)
    drift = _noise(plan).normal(0, 0.05, _TEMPERATURE_READINGS)
    _quantity(log, "time", seconds, "s")
    log["time"].attrs["start"] = _iso(plan.start_time)
    _quantity(log, "value", plan.temperature_kelvin + drift, "K")
    _write_default_plot(entry, plan)


def _write_default_plot(entry: h5py.Group, plan: PlannedFile) -> None:
    """What the instrument's people look at first: a spectrum, or every other time the detector's picture."""
    entry.attrs["default"] = "histogram"
    data = _group(entry, "histogram", "NXdata")
    data.attrs["signal"] = "counts"
    if plan.index % 2:
        counts = _picture(plan)
    else:
        data.attrs["axes"] = ["time_of_flight"]
        edges = np.linspace(0, 1000 / _PULSES_PER_SECOND, 201)
        _quantity(data, "time_of_flight", edges, "ms")
        expected = plan.event_count / 40 * np.exp(-(((edges[1:] - 25) / 9) ** 2)) + 4
        counts = _noise(plan).poisson(expected).astype(np.int32)
    _quantity(data, "counts", counts, "counts")


def _picture(plan: PlannedFile, angle: float = 0.0) -> Any:
    """What the detector sees: a ring, which turns with the sample."""
    down, across = np.mgrid[-1:1:64j, -1:1:96j]
    ring = np.exp(-(((np.hypot(down, across * (1 + 0.5 * np.sin(np.radians(angle)))) - 0.55) / 0.08) ** 2))
    return _noise(plan).poisson(plan.event_count / 600 * (0.05 + ring)).astype(np.int32)


def _write_instrument(entry: h5py.Group, plan: PlannedFile) -> None:
    instrument = _group(entry, "instrument", "NXinstrument")
    instrument["name"] = plan.proposal.instrument.name
    source = _group(instrument, "source", "NXsource")
    source["name"] = "Demo Spallation Source"
    source["type"] = "Spallation Neutron Source"
    source["probe"] = "neutron"
    _quantity(source, "power", plan.source_power_megawatt, "MW")
    _quantity(source, "frequency", float(_PULSES_PER_SECOND), "Hz")
    for chopper in plan.choppers:
        group = _group(instrument, chopper.name, "NXdisk_chopper")
        _quantity(group, "rotation_speed", chopper.rotation_speed_hz, "Hz")
        _quantity(group, "phase", chopper.phase_degree, "deg")
    detector = _group(instrument, plan.proposal.instrument.detector, "NXdetector")
    _write_events(_group(detector, f"{plan.proposal.instrument.detector}_events", "NXevent_data"), plan)


def _write_events(group: h5py.Group, plan: PlannedFile) -> None:
    noise = _noise(plan)
    pulses = max(1, int(_duration(plan) * _PULSES_PER_SECOND))
    period_ns = 1_000_000_000 // _PULSES_PER_SECOND
    start_ns = int(plan.start_time.timestamp() * 1000) * 1_000_000
    # A scattering pattern is brightest in one place, which is also what makes it compressible.
    pixels = plan.proposal.instrument.pixels
    event_id = np.clip(noise.normal(pixels / 2, pixels / 64, plan.event_count), 1, pixels)
    offsets = noise.integers(0, period_ns // 1000, plan.event_count) * 1000
    _compressed(group, "event_id", event_id.astype(np.int32))
    _compressed(group, "event_time_offset", offsets.astype(np.int32), units="ns")
    _compressed(
        group, "event_time_zero", start_ns + period_ns * np.arange(pulses, dtype=np.int64), units="ns"
    )
    _compressed(group, "event_index", np.linspace(0, plan.event_count, pulses).astype(np.int64))
    group["event_time_zero"].attrs["start"] = "1970-01-01T00:00:00Z"


def _group(parent: h5py.Group, name: str, nexus_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _quantity(group: h5py.Group, name: str, value: Any, units: str) -> None:
    group[name] = value
    group[name].attrs["units"] = units


def _compressed(group: h5py.Group, name: str, values: Any, *, units: str | None = None) -> None:
    dataset = group.create_dataset(
        name,
        data=values,
        chunks=(min(_EVENTS_PER_CHUNK, len(values)),),
        maxshape=(None,),
        compression="gzip",
        compression_opts=4,
        shuffle=True,
    )
    if units is not None:
        dataset.attrs["units"] = units


def _noise(plan: PlannedFile) -> np.random.Generator:
    return np.random.default_rng(uuid.UUID(plan.job_id).int)


def _duration(plan: PlannedFile) -> float:
    return (plan.end_time - plan.start_time).total_seconds()


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
