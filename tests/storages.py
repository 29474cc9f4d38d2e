"""A file system that fails or hangs as it is told, mounted by the kernel's FUSE without any library.

https://www.kernel.org/doc/html/latest/filesystems/fuse.html; the structures are those of ``linux/fuse.h``.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH, _INIT = 1, 2, 3, 14, 15, 18, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 27, 28, 29, 36, 42
_HEADER = struct.Struct("<IIQQIIII")
_ROOT, _FILE = 1, 2

Call = Literal["look", "open", "read", "list"]

_CALLS: dict[int, Call] = {
    _LOOKUP: "look",
    _GETATTR: "look",
    _OPEN: "open",
    _READ: "read",
    _OPENDIR: "list",
    _READDIR: "list",
}

HANGS = -1


class FaultyStorage:
    """A mounted folder with one file in it.

    ``faults`` has for each kind of call the error number that is its answer, or ``HANGS``.
    """

    def __init__(self, device: int, place: Path, content: bytes, modified: float) -> None:
        self.file = place / "run.nxs"
        self.faults: dict[Call, int] = {}
        self.held: list[Call] = []
        """The calls that hang."""
        self._device = device
        self._content = content
        self._modified = int(modified)
        self._changed = threading.Condition()

    def fail(self, number: int, *calls: Call) -> None:
        """Answer calls of these kinds with an error from now on."""
        self.faults = dict.fromkeys(calls, number)

    def hang(self) -> None:
        """Answer nothing any more."""
        self.fail(HANGS, "look", "open", "read", "list")

    def recover(self) -> None:
        """Be healthy, and answer what hangs."""
        with self._changed:
            self.faults = {}
            self._changed.notify_all()

    def serve(self) -> None:
        """Answer until the file system is unmounted; each call in a thread, because it may hang."""
        while True:
            try:
                message = os.read(self._device, 1 << 20)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.EINTR}:
                    continue
                return
            threading.Thread(target=self._serve_one, args=(message,), daemon=True).start()

    def _serve_one(self, message: bytes) -> None:
        _, code, unique, node, *_ = _HEADER.unpack_from(message)
        if code in {_FORGET, _INTERRUPT, _BATCH_FORGET}:
            return
        number = self._fault(code)
        body = b"" if number else self._answer(code, node, message[_HEADER.size :])
        if isinstance(body, int):
            number, body = body, b""
        with suppress(OSError):
            os.write(self._device, struct.pack("<IiQ", 16 + len(body), -number, unique) + body)

    def _fault(self, code: int) -> int:
        call = _CALLS.get(code)
        if call is None:
            return 0
        with self._changed:
            if self.faults.get(call) == HANGS:
                self.held.append(call)
                self._changed.wait_for(lambda: self.faults.get(call) != HANGS)
            return self.faults.get(call, 0)

    def _answer(self, code: int, node: int, asked: bytes) -> bytes | int:
        match code:
            case _ if code == _INIT:
                return struct.pack("<IIIIHHII", 7, 31, 0, 0, 12, 9, 4096, 1) + bytes(36)
            case _ if code == _LOOKUP:
                if asked.rstrip(b"\0") != self.file.name.encode():
                    return errno.ENOENT
                return struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)
            case _ if code == _GETATTR:
                return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
            case _ if code in {_OPEN, _OPENDIR}:
                # Nothing is kept in the page cache.
                return struct.pack("<QII", 0, 1, 0)
            case _ if code == _READ:
                _, offset, size = struct.unpack_from("<QQI", asked)
                return self._content[offset : offset + size]
            case _ if code == _READDIR:
                _, offset, _ = struct.unpack_from("<QQI", asked)
                return b"" if offset else self._listed()
            case _ if code in {_RELEASE, _RELEASEDIR, _FLUSH}:
                return b""
        return errno.ENOSYS

    def _listed(self) -> bytes:
        name = self.file.name.encode()
        entry = struct.pack("<QQII", _FILE, 1, len(name), stat.S_IFREG >> 12) + name
        return entry + bytes(-len(entry) % 8)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFREG | 0o444 if node == _FILE else stat.S_IFDIR | 0o755
        size = len(self._content) if node == _FILE else 0
        times = (self._modified,) * 3
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, 8, *times, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextmanager
def faulty_storage(place: Path, content: bytes, modified: float) -> Iterator[FaultyStorage]:
    """Mount the file system at a folder; whoever may not do so skips the test."""
    if os.geteuid() != 0 or shutil.which("mount") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("Only root with /dev/fuse can mount the file system that this test lets fail.")
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "faulty", str(place)]
    mounted = subprocess.run(command, pass_fds=[device], capture_output=True, text=True)
    if mounted.returncode != 0:
        os.close(device)
        pytest.skip(f"No FUSE file system can be mounted here: {mounted.stderr.strip()}")
    storage = FaultyStorage(device, place, content, modified)
    server = threading.Thread(target=storage.serve, daemon=True)
    server.start()
    try:
        yield storage
    finally:
        storage.recover()
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        # Who still has something of it open keeps it alive.
        server.join(5.0)
        os.close(device)
