"""``scicat-dagster messages``: the announcements that were rejected, and those that never came."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scicat_dagster.cli.options import config_option, dagster_instance, key_prefix_option, say

if TYPE_CHECKING:
    from scicat_dagster.config.overrides import Overrides
    from scicat_dagster.orchestration.ingest.rejected_messages import RejectedMessage
    from scicat_dagster.orchestration.names import Names


@click.group()
def messages() -> None:
    """Look at the messages that were rejected or never came, in the Dagster instance in DAGSTER_HOME."""


@messages.command("list")
@key_prefix_option
def list_messages(names: Names) -> None:
    """List rejected messages, newest first: position, time and reason."""
    from scicat_dagster.orchestration.ingest.rejected_messages import rejections

    with dagster_instance() as instance:
        for message in rejections(instance, names):
            when = message.reported_at.isoformat(timespec="seconds")
            say(f"{message.position}  {when}  {message.problem.what}")


@messages.command()
@click.argument("position", metavar="TOPIC:PARTITION:OFFSET")
@key_prefix_option
def show(position: str, names: Names) -> None:
    """Show one rejected message: the reason, what to do, and its bytes."""
    message = _rejected(position, names)
    left = message.length - len(message.value)
    click.echo(f"position  {message.position}\nreported  {message.reported_at.isoformat()}")
    say(f"reason    {message.problem.what}\nto do     {message.problem.remedy}")
    say(f"bytes     {message.value!r}")
    if left:
        click.echo(f"          and {left} more, which are in Kafka")


@messages.command()
@click.argument("position", metavar="TOPIC:PARTITION:OFFSET")
@key_prefix_option
@config_option
def retry(position: str, names: Names, config: Path, overrides: Overrides) -> None:
    """Send a rejected message to its topic again, for instance after its cause was corrected."""
    from scicat_dagster.config.loading import load_configuration
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.kafka.producer import send
    from scicat_dagster.kafka.reader import read_value

    message = _rejected(position, names)
    try:
        settings = load_configuration(config, os.environ, overrides).settings.kafka
        is_whole = message.length == len(message.value)
        value = message.value if is_whole else read_value(settings, message.position)
        send(settings, message.position.topic, [value])
    except IngestionError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Sent to {message.position.topic} again.")


@messages.command()
@click.argument("position", metavar="TOPIC:PARTITION:OFFSET")
@key_prefix_option
def skip(position: str, names: Names) -> None:
    """Let the sensor go on behind the message at which it stands, and keep a note of it.

    For a message that can neither be read nor rejected; `scicat-dagster health` names its topic.
    """
    from scicat_dagster.errors import IngestionError
    from scicat_dagster.kafka.messages import Position
    from scicat_dagster.orchestration.operations.sensor_position import skip as skip_message

    try:
        wanted = Position.parse(position)
    except ValueError:
        raise click.ClickException(f"{position} is not TOPIC:PARTITION:OFFSET.") from None
    with dagster_instance() as instance:
        try:
            skip_message(instance, wanted, names)
        except IngestionError as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"The sensor goes on behind {wanted}.")


@messages.command()
@key_prefix_option
def runs(names: Names) -> None:
    """List the runs that have started and whose file was not announced, with those that are overdue.

    They are followed where the configuration has ingestion.samples or monitoring.unended_run_hours.
    """
    from scicat_dagster.orchestration.run_starts.open_runs import started_runs
    from scicat_dagster.orchestration.run_starts.unended import reported_unended

    with dagster_instance() as instance:
        late = {each.run.job_id: each for each in reported_unended(instance, names)}
        for run in started_runs(instance, names).open:
            started = run.started.isoformat(timespec="seconds")
            say(f"{run.job_id}  {started}  {run.file}")
            if (found := late.get(run.job_id)) is not None:
                say(f"    never ended; on disk: {found.where}\n    {found.remedy}")


@messages.command()
@click.argument("job", metavar="JOB")
@key_prefix_option
def dismiss(job: str, names: Names) -> None:
    """Do not report a run any more that started and never ended. It is still listed until it is forgotten.

    JOB is the id of its file writer's job, as `scicat-dagster messages runs` lists it.
    """
    from scicat_dagster.orchestration.run_starts.open_runs import DISMISSED, note, started_runs

    with dagster_instance() as instance:
        if job not in {run.job_id for run in started_runs(instance, names).open}:
            raise click.ClickException(f"No open run has the job {job}; see `scicat-dagster messages runs`.")
        note(instance, DISMISSED, [job], names)
    click.echo("Dismissed. The check `runs_ended` says so within a minute.")


def _rejected(position: str, names: Names) -> RejectedMessage:
    from scicat_dagster.orchestration.ingest.rejected_messages import rejections

    with dagster_instance() as instance:
        for message in rejections(instance, names):
            if str(message.position) == position:
                return message
    raise click.ClickException(f"No rejected message {position}; see `scicat-dagster messages list`.")
