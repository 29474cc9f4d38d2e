"""Paths of data files in their canonical form."""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePosixPath

from scicat_dagster.limits import LONGEST_NAME_BYTES, LONGEST_PATH_BYTES

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
