"""The demo's services alone, for a rehearsal: what is printed leads to both of them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import requests

from tests.brokers import read_topic


def test_the_services_alone_print_how_to_use_them_and_end_by_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from scicat_dagster.cli import main; main()", "demo"]
    directory = tmp_path / "demo"
    with subprocess.Popen(
        [*command, "--services-only", "--directory", str(directory)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        printed = ""
        while "Ctrl-C" not in printed and (line := process.stderr.readline()):
            printed += line
        settings = dict(line.split("=", 1) for line in (directory / "environment").read_text().splitlines())
        login = requests.post(
            re.findall(r"API +(\S+)", printed)[0] + "/auth/login",
            json={"username": "ingestor", "password": settings["SCICAT_DEMO_PASSWORD"]},
            timeout=30,
        )
        ((servers, topic),) = re.findall(r"kcat -P -b (\S+) -t (\S+)", printed)
        there = read_topic(servers, topic)
        process.send_signal(signal.SIGINT)
        process.wait(30)

    assert login.ok
    assert there == []
    assert process.returncode == 0
    assert (directory / "config.yml").is_file()
    assert f"{directory}/data/" in printed
