"""Paths of data files: their canonical form, and where a file may lie."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

from scicat_dagster.errors import PermanentError, TransientError
from scicat_dagster.files.storage_errors import storage_errors
from scicat_dagster.limits import LONGEST_NAME_BYTES, LONGEST_PATH_BYTES

_SMALL_BYTES = 1 << 30
"""A file that is read in seconds may be as sparse as it likes."""

_MOST_COMPRESSED = 1000
"""Compression of file systems stays below it: lz4 reaches 255, and real data do not reach that."""

_UNSEEN = frozenset({"Cc", "Cs", "Cf"})
"""Control characters, halves of surrogates, and those that only change how others look: two paths that differ
in these alone look the same to everybody.
"""


def canonical_path(text: str, data_directory: str = "") -> str:
    """The one spelling of a file's path: absolute, POSIX, normalised, symbolic links left as they are.

    It is the file's identity everywhere (partition key, catalogue entry), so anything that could mean two
    things is refused. ``..`` is the folder above by its name, before anything is compared with
    ``data_directory``; a symbolic link on the way does not change that.

    Raises
    ------
    ValueError
        The path is relative, holds control characters or ``...``, is too long, or lies
        outside ``data_directory`` (when one is given).
    """
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_PATH_BYTES:
        raise ValueError(f"The path {text[:80]!r}… is longer than {LONGEST_PATH_BYTES} bytes.")
    if not text.startswith("/"):
        raise ValueError(f"The path {text!r} is not absolute.")
    if any(unicodedata.category(character) in _UNSEEN for character in text):
        raise ValueError(f"The path {text!r} holds control characters or invisible ones.")
    if "..." in text:
        raise ValueError(f"The path {text!r} holds `...`, which a partition key cannot.")
    parts = [part for part in os.path.normpath(text).split("/") if part]
    if not parts or text.endswith(("/", "/.", "/..")):
        raise ValueError(f"The path {text!r} names a directory.")
    if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in parts):
        raise ValueError(f"The path {text[:80]!r}… has a part that is longer than a file system allows.")
    path = PurePosixPath("/", *parts)
    # normpath keeps two leading slashes, which POSIX allows to mean something else.
    if data_directory and not path.is_relative_to("/" + os.path.normpath(data_directory).lstrip("/")):
        raise ValueError(f"The path {text!r} lies outside the data directory {data_directory!r}.")
    return str(path)


def check_place(path: Path, opened: os.stat_result, data_directory: str) -> None:
    """Make sure that an opened file is in the data directory, wherever symbolic links lead.

    ``opened`` is the status of the open file: what its path leads to may be exchanged at any time.

    Raises
    ------
    PermanentError
        It lies outside the data directory.
    TransientError
        Its path leads to another file meanwhile.
    """
    if not data_directory:
        return
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(data_directory)):
        raise PermanentError(
            f"{path} is a link to a file outside the data directory {data_directory}.",
            remedy="Put the file itself into the data directory, or correct "
            "`ingestion.file_handling.data_directory`.",
        )
    with storage_errors("read", path):
        found = real.stat()
    if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
        raise TransientError(f"{path} was replaced while it was opened.", remedy="It is tried again.")


def check_stored(path: Path, status: os.stat_result) -> None:
    """Refuse a sparse file, of which nearly nothing is on the disk: its checksum would take days.

    File systems that compress may store a thousandth; some report no blocks at all, which says nothing.

    Raises
    ------
    PermanentError
        The file is large and less than a thousandth of it is stored.
    """
    stored = status.st_blocks * 512
    if stored and status.st_size > _SMALL_BYTES and status.st_size > _MOST_COMPRESSED * stored:
        raise PermanentError(
            f"{path} is {status.st_size} bytes long, of which only {stored} are stored.",
            remedy="If this is no mistake of the file writer, copy the file with `cp --sparse=never`.",
        )
