"""Asking the child process for a picture of a complete file. That there is none never stops anybody."""

from __future__ import annotations

from pathlib import Path

from scicat_dagster.errors import IngestionError
from scicat_dagster.files.identity import CompleteFile
from scicat_dagster.files.linked_files import FollowedFiles
from scicat_dagster.files.reading import opened_again
from scicat_dagster.files.thumbnail_models import DrawingRequest, Drawn, Wanted
from scicat_dagster.isolation import CrashedError, EndlessError, Limits, ask

DRAWING_LIMITS = Limits(seconds=20.0)
"""Drawing takes some 10 ms, and for the largest allowed data half a second."""


def draw(
    file: CompleteFile,
    wanted: Wanted,
    *,
    data_directory: str = "",
    linked_within: str = "",
    limits: Limits = DRAWING_LIMITS,
) -> Drawn:
    """The picture of a file, or why there is none; links are followed as by ``reading.read_values``."""
    try:
        with (
            opened_again(file, data_directory) as descriptor,
            FollowedFiles(Path(file.path), linked_within) as linked,
        ):
            while True:
                request = DrawingRequest(file=file.path, wanted=wanted, linked=linked.known)
                files = [descriptor, *linked.descriptors]
                answer = ask("draw", request.model_dump_json().encode(), files=files, limits=limits)
                drawn = Drawn.model_validate_json(answer)
                if not linked.open(drawn.lacking):
                    return drawn
    except CrashedError as error:
        return Drawn(reason=f"The process that draws crashed twice ({error}).", is_failure=True)
    except EndlessError as error:
        return Drawn(reason=f"Drawing was not finished within {error.seconds:g} s.", is_failure=True)
    except IngestionError as error:
        return Drawn(reason=error.what, is_failure=True)
    except ValueError:
        return Drawn(reason="The process that draws gave no usable answer.", is_failure=True)
