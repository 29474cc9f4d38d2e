"""Checksums of files and texts, by any algorithm of hashlib, or blake3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

_CHUNK_BYTES = 1 << 20


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


def file_checksum(file: int, algorithm: str) -> str:
    digest: _Hash = blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while count := os.readv(file, [buffer]):
        digest.update(view[:count])
    return digest.hexdigest()


def text_checksum(text: str, algorithm: str) -> str:
    make: Callable[[bytes], _Hash] = (
        blake3 if algorithm == "blake3" else lambda data: hashlib.new(algorithm, data, usedforsecurity=False)
    )
    return make(text.encode()).hexdigest()
