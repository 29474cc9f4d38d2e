"""What one child may use, and what crosses the border between it and us."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

Task = Literal["hdf5", "search"]

LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""Four times what a catalogue takes in a request (16 MiB), because a schema may reduce long lists."""


class Limits(BaseModel):
    """What one child may use."""

    model_config = ConfigDict(frozen=True)

    seconds: PositiveFloat = 60.0
    """Wall time. A file takes milliseconds, on a slow storage seconds; a run that ends after a minute keeps a
    worker for less than Dagster's own limits.
    """
    memory_bytes: PositiveInt = 1 << 30
    """Address space beyond what the warm process has mapped: a chunk of the largest allowed size needs some
    768 MB (compressed, and inflated into a buffer that grows by doubling).
    """


LIMITS = Limits()


class Request(BaseModel):
    """What the warm process is asked for; what the task works on is in the file descriptors beside it."""

    model_config = ConfigDict(frozen=True)

    task: Task
    limits: Limits


class Ending(BaseModel):
    """How a child ended: what the warm process reports to the client."""

    model_config = ConfigDict(frozen=True)

    exit_code: int
    """As ``os.waitstatus_to_exitcode``: negative for the number of a signal."""
    was_too_slow: bool = False
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
