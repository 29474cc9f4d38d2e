"""Searching a text with a regular expression, in a child: some expressions need years for thirty letters."""

from __future__ import annotations

import json
import re


def answer(request: bytes, _file: int) -> bytes:
    """The first match and its groups as JSON, or null."""
    asked = json.loads(request)
    found = re.search(asked["pattern"], asked["text"])
    return json.dumps(None if found is None else [found.group(0), *found.groups()]).encode()
