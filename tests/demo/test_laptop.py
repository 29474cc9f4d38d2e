"""The demo's services alone, for a rehearsal: what is printed leads to both of them."""

from __future__ import annotations

import json
import re
import shlex
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
        try:
            assert process.stderr is not None
            printed = ""
            while "Ctrl-C" not in printed and (line := process.stderr.readline()):
                printed += line
            settings = dict(
                line.split("=", 1) for line in (directory / "environment").read_text().splitlines()
            )
            login = requests.post(
                re.findall(r"scicat.host +(\S+)", printed)[0] + "/auth/login",
                json={"username": "ingestor", "password": settings["SCICAT_PASSWORD"]},
                timeout=30,
            )
            (servers,) = re.findall(r"bootstrap_servers +(\S+)", printed)
            ((announcing, topic),) = re.findall(r"^  (.* -c .*produce\(\"(\S+)\".*) YOUR_DATA", printed, re.M)
            mine = tmp_path / "mine.nxs"
            subprocess.run([*shlex.split(announcing), str(mine)], check=True, timeout=60)
            (told,) = read_topic(servers, topic)
        finally:
            process.send_signal(signal.SIGINT)
        process.wait(30)

    assert login.ok
    assert settings.keys() == {"SCICAT_PASSWORD", "SCICAT_DEMO_PASSWORD"}
    assert json.loads(told.value or b"")["file_path"] == str(mine)
    assert process.returncode == 0
    assert (directory / "config.yml").is_file()
    assert not (directory / "environment").stat().st_mode & 0o077
