"""Posting the jobs of a registered dataset: each once, whatever is repeated.

SciCat takes every job that it is sent, also the same one again. So a job is looked for before it is posted,
by its type and by the dataset that its parameters name. A job whose parameters do not name the dataset cannot
be looked for: it is posted by the call that creates the dataset, and by no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from scicat_dagster.dataset.jobs import Job, WantedJob
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.errors import RefusedError
from scicat_dagster.scicat.models import JobRecord, PostedJob
from scicat_dagster.scicat.registration import Registration, check_abandoned


def with_jobs(registration: Registration, wanted: Sequence[WantedJob], client: ScicatClient) -> Registration:
    """The registration with what became of each job of the schema. A refused job is not raised: it is told.

    Raises
    ------
    TransientError
        The server could not answer, or another execution may be about to post a job. Calling again converges.
    """
    if not wanted:
        return registration
    types = Counter(each.job.type for each in wanted if each.job)
    jobs = tuple(_posted(each, types, registration, client) for each in wanted)
    return registration.model_copy(update={"jobs": jobs})


def _posted(
    wanted: WantedJob, types: Counter[str], registration: Registration, client: ScicatClient
) -> PostedJob:
    job = wanted.job
    if job is None:
        return PostedJob(name=wanted.name, state="refused", reason=wanted.reason)
    try:
        return _once(wanted.name, job, registration, client, alone=types[job.type] == 1)
    except RefusedError as refusal:
        return PostedJob(name=wanted.name, type=job.type, state="refused", reason=str(refusal))


def _once(name: str, job: Job, registration: Registration, client: ScicatClient, *, alone: bool) -> PostedJob:
    # Nobody else has known the pid of a dataset that this call created.
    if not registration.created_dataset:
        place = place_of(registration.pid, job.jobParams)
        if place is None:
            reason = "Its parameters do not name the dataset, so that nobody can tell whether it was posted."
            return PostedJob(name=name, type=job.type, state="not looked for", reason=reason)
        for record in client.jobs_like(job, place, registration.pid):
            if alone or _holds(record.jobParams, job.jobParams):
                return PostedJob(name=name, type=job.type, state="was there", id=record.id)
        dataset = client.dataset(registration.pid)
        if dataset is not None:
            check_abandoned(dataset, (), f"its job {job.type}", client)
    created: JobRecord = client.create_job(job)
    return PostedJob(name=name, type=job.type, state="posted", id=created.id)


def place_of(pid: str, value: JsonValue) -> tuple[str, ...] | None:
    """The keys on the way to the first text that is the pid; those of lists do not count. None: nowhere."""
    if value == pid:
        return ()
    if isinstance(value, list):
        return next((found for item in value if (found := place_of(pid, item)) is not None), None)
    if isinstance(value, dict):
        for key, item in value.items():
            found = place_of(pid, item)
            # A filter cannot ask for keys with these.
            if found is not None and "." not in key and not key.startswith("$"):
                return key, *found
    return None


def _holds(theirs: Any, ours: JsonValue) -> bool:
    """Whether the server's parameters are ours, but for what it adds."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(
            name in theirs and _holds(theirs[name], value) for name, value in ours.items()
        )
    return bool(theirs == ours)
