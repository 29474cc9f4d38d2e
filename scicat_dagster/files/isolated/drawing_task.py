"""The child's task: from an open file to a picture, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scicat_dagster.errors import IngestionError
from scicat_dagster.files.isolated.drawing import thumbnail_of
from scicat_dagster.files.isolated.hdf5 import NexusFile, open_descriptors
from scicat_dagster.files.isolated.nxdata import Axis, NothingToPlotError, Plot, plot_of
from scicat_dagster.files.thumbnail_models import DrawingRequest, Drawn, Wanted


def answer(request: bytes, files: Sequence[int]) -> bytes:
    """The answer to a :class:`DrawingRequest` about open files, as the JSON of a :class:`Drawn`."""
    return _drawn(DrawingRequest.model_validate_json(request), files).model_dump_json().encode()


def _drawn(request: DrawingRequest, files: Sequence[int]) -> Drawn:
    try:
        with open_descriptors(files, Path(request.file), request.linked) as nexus:
            drawn = _plotted(nexus, request.wanted)
            return drawn.model_copy(update={"lacking": tuple(nexus.links.lacking)})
    except IngestionError as error:
        return Drawn(reason=error.what, is_failure=True)


def _plotted(nexus: NexusFile, wanted: Wanted) -> Drawn:
    try:
        return Drawn(thumbnail=thumbnail_of(plot_of(nexus, wanted.path), wanted))
    except NothingToPlotError as nothing:
        # Whoever names a place means that there is something.
        return Drawn(reason=str(nothing), is_failure=bool(wanted.path))
    except MemoryError:
        return Drawn(reason="It takes more memory than a preview may.", is_failure=True)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        return Drawn(reason=f"{type(error).__name__}: {error}"[:500], is_failure=True)


def warm_up() -> None:
    """Let numpy and Pillow do what they do once only, before children are forked from here."""
    for values in (np.arange(10.0), np.arange(100.0).reshape(10, 10)):
        axes = tuple(Axis("x [m]") for _ in values.shape)
        thumbnail_of(Plot("warm", "y", values, axes, values.shape), Wanted())
