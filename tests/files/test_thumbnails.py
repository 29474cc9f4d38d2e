"""The picture of a file's default data: what is found, what is shown, and what is refused or too much."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from scicat_dagster.files.reading import look_at
from scicat_dagster.files.thumbnail_models import MOST_PNG_BYTES, Drawn, Thumbnail, Wanted, digest_in
from scicat_dagster.files.thumbnails import DRAWING_LIMITS, draw
from scicat_dagster.isolation import Limits

Write = Callable[[h5py.File], None]

LONG_AGO = 1_700_000_000
PEAK = 1000 * np.exp(-(((np.arange(200) - 60) / 9) ** 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.nxs"


def drawn(file_path: Path, write: Write, limits: Limits | None = None, **wanted: Any) -> Drawn:
    with h5py.File(file_path, "w") as file:
        write(file)
    os.utime(file_path, (LONG_AGO, LONG_AGO))
    chosen = Wanted.model_validate(wanted)
    return draw(look_at(file_path), chosen, limits=limits or DRAWING_LIMITS)


def nxdata(values: Any, axes: dict[str, Any] | None = None, **attributes: Any) -> Write:
    """A file whose default data are these, with their axes by name."""

    def write(file: h5py.File) -> None:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs["default"] = "data"
        entry["title"] = "Silver behenate"
        data = entry.create_group("data")
        data.attrs.update({"NX_class": "NXdata", "signal": "counts", **attributes})
        data["counts"] = values
        data["counts"].attrs["units"] = "Hz"
        if axes:
            data.attrs["axes"] = list(axes)
            for name, places in axes.items():
                data[name] = places
                data[name].attrs["units"] = "mm"

    return write


def picture(found: Drawn) -> tuple[Thumbnail, np.ndarray[Any, Any]]:
    assert found.thumbnail is not None, found
    kind, _, content = found.thumbnail.data_url.partition(",")
    assert kind == "data:image/png;base64"
    png = base64.b64decode(content)
    assert len(png) <= MOST_PNG_BYTES
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.size) == ("PNG", (480, 360))
    return found.thumbnail, np.asarray(image.convert("RGB")).astype(int)


def is_line(pixels: Any) -> Any:
    """Where the blue of a line is, which the letters do not have."""
    return pixels[..., 2] - pixels[..., 0] > 60


def test_one_dimension_is_a_line_with_its_peak_where_it_is(path: Path) -> None:
    thumbnail, pixels = picture(drawn(path, nxdata(PEAK, {"angle": np.arange(200.0)}), scale="linear"))

    assert thumbnail.caption == "Silver behenate: counts [Hz] by angle [mm]"
    rows, columns = np.nonzero(is_line(pixels))
    top = columns[rows == rows.min()].mean()
    left, right = columns.min(), columns.max()
    assert (top - left) / (right - left) == pytest.approx(60 / 199, abs=0.02)


def test_a_line_is_drawn_along_the_values_of_its_axis_and_those_may_be_the_edges(path: Path) -> None:
    edges = np.concatenate([[0], np.geomspace(1, 1000, 200)])
    _, pixels = picture(drawn(path, nxdata(PEAK, {"angle": edges}), scale="linear"))

    rows, columns = np.nonzero(is_line(pixels))
    # The 61st of 200 logarithmic steps is near the beginning of a linear axis.
    assert columns[rows == rows.min()].mean() < columns.min() + 20


def test_an_image_has_its_bright_corner_where_it_is_and_rows_go_upwards(path: Path) -> None:
    values = np.zeros((40, 40))
    values[30:, :10] = 7
    _, pixels = picture(drawn(path, nxdata(values, {"y": np.arange(40.0), "x": np.arange(40.0)})))

    inside = pixels[40:300, 70:380].sum(axis=2)
    assert inside[:50, :60].min() > inside[100:, 100:].max()


def test_no_letter_of_a_long_label_covers_the_image(path: Path) -> None:
    write = nxdata(np.zeros((200, 300)), {"y": np.arange(200.0), "x": np.arange(300.0)})

    def with_long_label(file: h5py.File) -> None:
        write(file)
        file["entry/data/counts"].attrs["long_name"] = "Neutron counts in all of the detectors"

    _, pixels = picture(drawn(path, with_long_label))

    inside = pixels[31:312, 66:386].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) == 1
    beside = pixels[31:312, 392:416].sum(axis=2)
    assert (beside < 600).any(axis=1).sum() > 100, "the label is along the bar"


def test_a_hot_pixel_does_not_take_the_colours_from_all_others(path: Path) -> None:
    values = np.tile(np.arange(100.0), (100, 1))
    calm = picture(drawn(path, nxdata(values)))[1]
    values[50, 50] = 1e9
    hot = picture(drawn(path, nxdata(values), scale="linear"))[1]

    assert (calm != hot).any(axis=2).mean() < 0.02


def test_pixels_that_the_detector_marks_as_dead_do_not_count(path: Path) -> None:
    values = np.tile(np.arange(1, 101, dtype=np.uint32), (100, 1))
    values[::2, ::2] = np.iinfo(np.uint32).max
    thumbnail, _ = picture(drawn(path, nxdata(values)))

    assert "logarithmic" not in thumbnail.caption


def test_over_more_dimensions_is_summed(path: Path) -> None:
    frame = np.zeros((20, 30))
    frame[5, 7] = 1
    movie = np.stack([frame, 3 * frame, np.roll(frame, 3)])
    summed = picture(drawn(path, nxdata(movie, scale="linear")))
    alone = picture(drawn(path, nxdata(movie.sum(axis=0))))

    assert "sum of 3" in summed[0].caption
    # The sides are called by the numbers of other dimensions.
    assert (summed[1][40:300, 70:380] == alone[1][40:300, 70:380]).all()


def test_a_spectrum_per_pixel_is_one_line(path: Path) -> None:
    thumbnail, pixels = picture(drawn(path, nxdata(np.tile(PEAK, (5, 4, 1)), interpretation="spectrum")))

    assert "sum of 20" in thumbnail.caption
    assert is_line(pixels).any()


@pytest.mark.parametrize(
    ("values", "scale", "is_log"),
    [
        (PEAK + 1, "auto", True),
        (PEAK + 1, "linear", False),
        (PEAK + 500, "auto", False),
        (PEAK + 500, "log", True),
        (PEAK - 1, "auto", False),
        (-PEAK, "log", False),
    ],
)
def test_the_scale_is_logarithmic_where_that_shows_more(
    path: Path, values: Any, scale: str, is_log: bool
) -> None:
    thumbnail, _ = picture(drawn(path, nxdata(values), scale=scale))

    assert ("logarithmic" in thumbnail.caption) is is_log


def test_without_default_it_is_the_first_data_of_the_first_entry(path: Path) -> None:
    def write(file: h5py.File) -> None:
        entry = file.create_group("run")
        entry.attrs["NX_class"] = "NXentry"
        entry.create_group("a").attrs["NX_class"] = "NXsample"
        entry.create_group("b").attrs["NX_class"] = "NXdata"
        entry["b/values"] = PEAK
        # The older way to say it.
        entry["b/values"].attrs["signal"] = 1

    assert picture(drawn(path, write))[0].caption.startswith("values by")


def test_without_default_data_that_name_no_signal_are_passed_over(path: Path) -> None:
    def write(file: h5py.File) -> None:
        for name in ("entry", "entry/in_another_file", "entry/monitor"):
            file.create_group(name).attrs["NX_class"] = "NXentry" if name == "entry" else "NXdata"
        file["entry/in_another_file/data"] = h5py.ExternalLink("elsewhere.h5", "/data")
        file["entry/monitor/counts"] = PEAK
        file["entry/monitor"].attrs["signal"] = "counts"

    assert picture(drawn(path, write))[0].caption.startswith("counts by")


@pytest.mark.parametrize("number", [2, "2", b"2"])
def test_axes_of_the_oldest_form_are_found(path: Path, number: object) -> None:
    def write(file: h5py.File) -> None:
        nxdata(np.arange(12.0).reshape(3, 4))(file)
        data = file["entry/data"]
        for name, places, dimension in (("y", [1, 2, 3], 1), ("x", [5, 6, 7, 8], number), ("z", [0], "no")):
            data[name] = places
            data[name].attrs["axis"] = dimension

    assert " by x, y" in picture(drawn(path, write))[0].caption


def test_texts_in_arrays_and_units_that_are_said_already_are_shown_once(path: Path) -> None:
    def write(file: h5py.File) -> None:
        nxdata(PEAK, {"tof": np.arange(len(PEAK))})(file)
        del file["entry/title"]
        file["entry/title"] = ["Vanadium"]
        file["entry/data/tof"].attrs.update({"long_name": "Time of flight [us]", "units": "us"})
        file["entry/data/counts"].attrs["units"] = " "

    caption = picture(drawn(path, write))[0].caption
    assert caption == "Vanadium: counts by Time of flight [us], logarithmic"


def test_a_schema_may_name_a_group_or_a_dataset_and_a_title(path: Path) -> None:
    by_group = drawn(path, nxdata(PEAK), path="/entry/data", title="Mine")
    by_dataset = drawn(path, nxdata(PEAK), path="entry/data/counts", title="Mine")

    assert picture(by_group)[0].caption == "Mine: counts [Hz] by dimension 0, logarithmic"
    assert picture(by_group)[0].digest == picture(by_dataset)[0].digest
    assert drawn(path, nxdata(PEAK), path="/entry/nowhere").is_failure


def no_entry(file: h5py.File) -> None:
    file["x"] = 1


@pytest.mark.parametrize(
    "write",
    [no_entry, nxdata("text"), nxdata(5.0), nxdata(np.zeros(0)), nxdata(PEAK, signal="other")],
    ids=["no entry", "text", "one number", "nothing", "no such signal"],
)
def test_where_nothing_is_to_be_plotted_there_is_no_picture_and_no_failure(path: Path, write: Write) -> None:
    found = drawn(path, write)

    assert (found.thumbnail, found.is_failure) == (None, False)
    assert found.reason


def test_values_of_which_none_is_a_number_are_a_failure_that_says_so(path: Path) -> None:
    found = drawn(path, nxdata(np.full(50, np.nan)))

    assert found.is_failure
    assert "no value" in found.reason


def test_nothing_outside_of_the_file_is_read(path: Path) -> None:
    other = path.with_name("secret.h5")
    with h5py.File(other, "w") as file:
        file["counts"] = PEAK

    def linked(file: h5py.File) -> None:
        nxdata(PEAK)(file)
        del file["entry/data/counts"]
        file["entry/data/counts"] = h5py.ExternalLink(str(other), "/counts")

    def outside(file: h5py.File) -> None:
        nxdata(PEAK)(file)
        del file["entry/data/counts"]
        space = [(str(other), 0, 1600)]
        file["entry/data"].create_dataset("counts", (200,), "f8", external=space)

    for write in (linked, outside):
        found = drawn(path, write)
        assert found.thumbnail is None
        assert "another file" in found.reason


def test_title_and_axis_in_another_file_are_left_out(path: Path) -> None:
    def write(file: h5py.File) -> None:
        nxdata(PEAK, {"angle": np.arange(200.0)})(file)
        for name in ("title", "data/angle"):
            del file["entry"][name]
            file["entry"][name] = h5py.ExternalLink("other.h5", "/x")

    assert picture(drawn(path, write))[0].caption == "counts [Hz] by dimension 0, logarithmic"


def test_of_more_than_can_be_read_evenly_spaced_parts_are(path: Path) -> None:
    def write(file: h5py.File) -> None:
        nxdata(PEAK)(file)
        del file["entry/data/counts"]
        # Sparse: 4 GB of zeros that are nowhere, but for the first and the last frame.
        frames = file["entry/data"].create_dataset("counts", (1000, 1000, 1000), "u4", chunks=(1, 1000, 1000))
        frames[0] = frames[999] = np.arange(1000)

    thumbnail, _ = picture(drawn(path, write))

    assert "sum of 1000, from 41 of 1000" in thumbnail.caption


def test_a_chunk_that_inflates_to_more_than_its_size_is_refused(path: Path) -> None:
    def write(file: h5py.File) -> None:
        nxdata(PEAK)(file)
        del file["entry/data/counts"]
        made = file["entry/data"].create_dataset("counts", (100,), "u1", chunks=(100,), compression="gzip")
        made.id.write_direct_chunk((0,), bytes(1024 * 1024))

    found = drawn(path, write)

    assert found.is_failure
    assert "inflate" in found.reason


def test_what_takes_too_long_is_a_failure_and_no_more(path: Path) -> None:
    found = drawn(path, nxdata(np.zeros((2000, 2000))), Limits(seconds=0.001))

    assert found.is_failure


def test_the_same_data_give_the_same_picture_and_it_is_known_again(path: Path) -> None:
    first, second = (picture(drawn(path, nxdata(PEAK)))[0] for _ in range(2))
    other = picture(drawn(path, nxdata(PEAK * 2)))[0]

    assert first == second
    assert digest_in(first.data_url) == first.digest != digest_in(other.data_url)


@given(st.text() | st.binary().map(lambda raw: "data:image/png;base64," + base64.b64encode(raw).decode()))
def test_pictures_of_others_are_nobody_of_ours(url: str) -> None:
    assert digest_in(url) == ""


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, 1e308, -1e308, 5e-324, float("inf"), float("nan")])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(NUMBERS, min_size=4, max_size=40),
    st.sampled_from(["auto", "linear", "log"]),
    st.sampled_from([1, 2]),
    st.text(max_size=300).filter(lambda text: "\x00" not in text),
)
def test_whatever_numbers_and_texts_there_are_the_answer_is_a_picture_or_a_reason(
    path: Path, numbers: list[float], scale: str, dimensions: int, title: str
) -> None:
    values = np.array(numbers[: len(numbers) // 2 * 2])
    shaped = values.reshape(2, -1) if dimensions == 2 else values
    found = drawn(path, nxdata(shaped, {"x": values} if dimensions == 1 else None), scale=scale, title=title)

    if np.isfinite(values).any():
        picture(found)
    else:
        assert found.is_failure


def test_letters_that_the_font_does_not_have_are_written_in_others(path: Path) -> None:
    odd = drawn(path, nxdata(PEAK), title="λ in Å, 3 µm, 1 g/cm³")
    plain = drawn(path, nxdata(PEAK), title="lambda in A, 3 um, 1 g/cm3")

    assert picture(odd)[0].digest == picture(plain)[0].digest
    assert "µm" in picture(odd)[0].caption
