"""The jobs that a schema wants posted once its dataset is registered. Posting them is ``scicat``'s.

They are rendered after the registration, because the server may be the one who makes the pid.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from scicat_dagster.dataset.build import BuiltDataset, plain
from scicat_dagster.dataset.ingestion import ExtractedMetadata
from scicat_dagster.errors import message_of
from scicat_dagster.schemas.models import PID_VARIABLE, JobDefinition, Unusable
from scicat_dagster.schemas.rendering import Value, render
from scicat_dagster.schemas.variables import Evaluation


class Job(BaseModel):
    """A job to be posted, by the names of API v4. What is empty is not sent."""

    model_config = ConfigDict(frozen=True)

    type: str
    jobParams: dict[str, JsonValue]  # noqa: N815 - the API's names
    ownerUser: str = ""  # noqa: N815
    ownerGroup: str = ""  # noqa: N815
    contactEmail: str = ""  # noqa: N815


class WantedJob(BaseModel):
    """A job of a schema by its name there, for one dataset; or why it cannot be made."""

    model_config = ConfigDict(frozen=True)

    name: str
    job: Job | None = None
    reason: str = ""


def wanted_jobs(metadata: ExtractedMetadata, built: BuiltDataset, pid: str) -> tuple[WantedJob, ...]:
    """The jobs of a file's schema, for the dataset as which it is registered."""
    evaluation = metadata.evaluation()
    evaluation.values[PID_VARIABLE] = Value(pid)
    group = str(built.dataset["ownerGroup"])
    names = {*metadata.schema_.variables, PID_VARIABLE}
    return tuple(
        _wanted(name, definition, evaluation, names, group)
        for name, definition in metadata.schema_.jobs.items()
    )


def _wanted(
    name: str, definition: JobDefinition | Unusable, evaluation: Evaluation, names: set[str], group: str
) -> WantedJob:
    if isinstance(definition, Unusable):
        return WantedJob(name=name, reason=definition.reason)

    def text(template: str) -> str:
        return str(render(template, evaluation.values, names).value)

    try:
        job = Job(
            type=text(definition.type),
            jobParams=plain(render(definition.job_params, evaluation.values, names).value),
            ownerUser=text(definition.owner_user),
            # A job that belongs to nobody is refused to everybody but administrators.
            ownerGroup=text(definition.owner_group) or group,
            contactEmail=text(definition.contact_email),
        )
    except ValidationError as error:
        return WantedJob(name=name, reason=message_of(error.errors()[0]))
    except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return WantedJob(name=name, reason=evaluation.why(error).text)
    return WantedJob(name=name, job=job)
