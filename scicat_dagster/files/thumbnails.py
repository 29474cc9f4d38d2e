"""Asking the child process for a picture of a complete file. That there is none never stops anybody."""

from __future__ import annotations

import os
from pathlib import Path

from scicat_dagster.errors import IngestionError
from scicat_dagster.files.access import opened_file
from scicat_dagster.files.identity import CompleteFile, complete_file, file_changed
from scicat_dagster.files.thumbnail_models import DrawingRequest, Drawn, Wanted
from scicat_dagster.isolation import CrashedError, EndlessError, Limits, ask

DRAWING_LIMITS = Limits(seconds=20.0)
"""Drawing takes some 10 ms, and for the largest allowed data half a second."""


def draw(
    file: CompleteFile, wanted: Wanted, *, data_directory: str = "", limits: Limits = DRAWING_LIMITS
) -> Drawn:
    """The picture of a file, or why there is none."""
    path = Path(file.path)
    request = DrawingRequest(file=file.path, wanted=wanted).model_dump_json().encode()
    try:
        with opened_file(path, data_directory) as descriptor:
            if complete_file(path, os.fstat(descriptor)) != file:
                raise file_changed(file)
            return Drawn.model_validate_json(ask("draw", request, file=descriptor, limits=limits))
    except CrashedError as error:
        return Drawn(reason=f"The process that draws crashed twice ({error}).", is_failure=True)
    except EndlessError as error:
        return Drawn(reason=f"Drawing was not finished within {error.seconds:g} s.", is_failure=True)
    except IngestionError as error:
        return Drawn(reason=error.what, is_failure=True)
    except ValueError:
        return Drawn(reason="The process that draws gave no usable answer.", is_failure=True)
