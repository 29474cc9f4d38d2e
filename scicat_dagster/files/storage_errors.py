"""What a failing storage means: transient, or a missing right, with the folder that lacks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from scicat_dagster.errors import PermanentError, TransientError


def who_forbids(path: Path) -> Path:
    """The folder on the way to a path that lets nobody like us in, or else the path itself."""
    for part in (*reversed(path.parents), path):
        try:
            part.lstat()
        except PermissionError:
            return part.parent
        except OSError:
            break
    return path


@contextmanager
def storage_errors(doing: Literal["read", "make", "write"], path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        place = who_forbids(path)
        if doing != "read" and place == path:
            place = next(folder for folder in path.parents if folder.exists())
        right = f"read {place}" if doing == "read" else f"write in {place}"
        raise PermanentError(
            f"No right to {doing} {path}.",
            remedy=f"Give the account that runs Dagster the right to {right}, then re-execute the run.",
        ) from error
    except OSError as error:
        raise TransientError(
            f"{path} cannot be used: {error.strerror}.",
            remedy="See that the storage is mounted and has room; it is tried again.",
        ) from error
