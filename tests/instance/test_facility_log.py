"""What runs say, as it arrives where the facility's configuration wants it: in a file, at a UDP socket."""

import json
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from scicat_dagster.config.loading import CONFIGURATION_VARIABLE
from tests.small_facility import instance_in

# pytest forgets what the package does about it.
pytestmark = pytest.mark.filterwarnings("ignore:Handling yaml-defined logging")

DAGSTER = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())

Configure = Callable[..., None]


@dg.op
def register(context: dg.OpExecutionContext) -> None:
    context.log.warning("A variable has no value.\nSecond line.")
    context.log.debug("Nobody needs this.")
    context.log_event(
        dg.AssetMaterialization("raw_dataset", partition="raw/a.hdf", metadata={"pid": "20.500/1"})
    )


@dg.op
def fail() -> None:
    raise dg.Failure("The disk is away.")


@dg.job(executor_def=dg.in_process_executor)
def registering() -> None:
    register()


@dg.job(executor_def=dg.in_process_executor)
def failing() -> None:
    fail()


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    config = tmp_path / "config.yml"
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(config))

    def write(**logging: object) -> None:
        scicat = {"host": "http://127.0.0.1:9/api/v3"}
        config.write_text(yaml.safe_dump({"scicat": scicat, "logging": logging}))

    return write


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_in(tmp_path / "home", python_logs=DAGSTER["python_logs"]) as opened:
        yield opened


@pytest.fixture
def graylog() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        yield server


def run(instance: dg.DagsterInstance, job: dg.JobDefinition) -> dg.ExecuteInProcessResult:
    tags = {"dagster/partition": "raw/a.hdf", "instrument": "ODIN"}
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def test_each_line_of_the_file_says_what_it_is_about(
    configure: Configure, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    configure(file_log=True, file_log_base_name="facility", file_log_json=True)

    done = run(instance, registering)

    lines = [json.loads(line) for line in (tmp_path / "facility.log").read_text().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("WARNING", "A variable has no value.\nSecond line."),
        ("INFO", "Registered raw/a.hdf as 20.500/1."),
    ]
    assert {line["run"] for line in lines} == {done.run_id}
    assert {(line["file"], line["instrument"]) for line in lines} == {("raw/a.hdf", "ODIN")}


def test_a_line_of_text_stays_one(configure: Configure, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    configure(file_log=True, logging_level="warning", log_message_prefix=" SFI 100% ")

    run(instance, registering)

    (line,) = (tmp_path / "scicat_ingestor_log.log").read_text().splitlines()
    assert line.startswith(" SFI 100% ")
    assert 'A variable has no value.\\nSecond line. [run="' in line
    assert 'file="raw/a.hdf" instrument="ODIN"' in line


def received(server: socket.socket) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(zlib.decompress(server.recv(65536)))
    return message


def test_every_graylog_server_is_told_of_a_failure(
    configure: Configure, instance: dg.DagsterInstance, graylog: socket.socket
) -> None:
    port = graylog.getsockname()[1]
    further = [{"host": "127.0.0.1", "port": port, "facility": "second"}]
    configure(
        graylog=True, graylog_host="127.0.0.1", graylog_port=str(port), graylog_facility="first",
        graylog_enabled=True, graylogs=further, logging_level="ERROR",
    )  # fmt: skip

    done = run(instance, failing)

    first, second = received(graylog), received(graylog)
    assert {first["_facility"], second["_facility"]} == {"first", "second"}
    assert first["level"] == 3
    assert first["_run"] == done.run_id
    assert first["_file"] == "raw/a.hdf"
    assert "fail" in first["short_message"]


def test_a_server_that_is_not_there_holds_nothing_up(
    configure: Configure, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(graylog=True, graylog_host="graylog.invalid")

    assert run(instance, registering).success

    # Once, and not for each message.
    assert capsys.readouterr().err.count("gaierror") == 1


def test_without_the_section_nothing_is_written(
    configure: Configure, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    configure()

    assert run(instance, registering).success

    assert not list(tmp_path.glob("*.log"))
