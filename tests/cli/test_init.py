"""``scicat-dagster init``: a folder that can be used, and what is in it already."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.files.description import describe_file

ROOT = Path(__file__).parents[2]


def init(folder: Path) -> Result:
    return CliRunner().invoke(main, ["init", str(folder)])


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_has_all_that_a_facility_begins_with(tmp_path: Path) -> None:
    result = init(tmp_path / "new" / "facility")

    assert result.exit_code == 0, result.output
    found = files_in(tmp_path / "new" / "facility")
    assert sorted(found) == [
        ".gitignore",
        "config.yml",
        "dagster.yaml",
        "schemas/README.md",
        "tests/README.md",
        "tests/scicat.json",
        "workspace.yaml",
    ]
    for name in ("dagster.yaml", "workspace.yaml"):
        assert found[name] == (ROOT / name).read_bytes(), "install the checkout again: pip install -e ."


def test_its_configuration_is_valid_once_there_is_a_schema(tmp_path: Path) -> None:
    init(tmp_path)
    shutil.copy(ROOT / "tests" / "data" / "small-coda.imsc.yml", tmp_path / "schemas")
    config = tmp_path / "config.yml"

    arguments = ["validate", str(config)]
    unfilled = CliRunner(env={"SCICAT_PASSWORD": "secret"}).invoke(main, arguments)
    config.write_text(config.read_text().replace("<FILL_IN>", "20.1234"))
    result = CliRunner(env={"SCICAT_PASSWORD": "secret"}).invoke(main, arguments)
    without = CliRunner(env={"SCICAT_PASSWORD": None}).invoke(main, arguments)

    assert result.exit_code == 0, result.output
    assert without.exit_code == unfilled.exit_code == 1
    assert "dataset.dataset_pid_prefix: is still <FILL_IN>" in unfilled.output
    assert "SCICAT_PASSWORD" in without.output


def test_what_lies_beside_a_file_is_in_its_folder_whatever_the_folders_are(tmp_path: Path) -> None:
    init(tmp_path / "facility")
    config, data = tmp_path / "facility" / "config.yml", tmp_path / "data"
    filled = (
        config.read_text()
        .replace("<FILL_IN>", "")
        .replace("data_directory: /data", f"data_directory: {data}")
    )
    config.write_text(filled)
    handling = load_configuration(config, {"SCICAT_PASSWORD": "x"}).settings.ingestion.file_handling

    for file in (data / "flat.nxs", data / "443503" / "raw" / "1.nxs"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        found = describe_file(file, handling, {"file_path": str(file)})
        assert found.notices == ()
        assert len(found.sidecars) == 3
        assert all(Path(sidecar.path).is_relative_to(file.parent) for sidecar in found.sidecars)


def test_each_key_of_its_configuration_is_one_of_the_sample(tmp_path: Path) -> None:
    init(tmp_path)
    known = yaml.safe_load((ROOT / "docs" / "reference" / "config.sample.yml").read_text())

    for section, keys in yaml.safe_load((tmp_path / "config.yml").read_text()).items():
        assert keys.keys() <= known[section].keys()


def test_its_dagster_yaml_is_one_that_dagster_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init(tmp_path)
    monkeypatch.setenv("SCICAT_INGESTOR_CONFIG", str(tmp_path / "config.yml"))

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == "ForkLauncher"


def test_what_is_there_is_kept_and_what_is_missing_is_written(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("id: mine\n")
    init(tmp_path)
    (tmp_path / "workspace.yaml").unlink()
    before = files_in(tmp_path)

    result = init(tmp_path)

    after = files_in(tmp_path)
    assert after.pop("workspace.yaml") == (ROOT / "workspace.yaml").read_bytes()
    assert after == before
    assert after["config.yml"] == b"id: mine\n"
    assert "kept     config.yml" in result.output
    assert "written  workspace.yaml" in result.output


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "facility", tmp_path / "elsewhere.yml"
    folder.mkdir()
    (folder / "config.yml").symlink_to(elsewhere)

    result = init(folder)

    assert result.exit_code == 1
    assert "config.yml cannot be written" in result.output
    assert not elsewhere.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = init(tmp_path / "file" / "facility")

    assert result.exit_code == 1
    assert "cannot be written: Not a directory" in result.output
    assert "Traceback" not in result.output


def test_the_next_commands_have_their_paths_where_a_shell_would_not_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    printed = init(tmp_path / "facility").output

    for name in ("scicat-dagster", "dagster"):
        command = Path(sys.executable).with_name(name)
        assert command.exists()
        assert f" {shlex.quote(str(command))} " in printed


def test_the_next_commands_are_ones_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    result = init(tmp_path / "a facility")

    commands = [line.strip() for line in result.output.replace("\\\n", "").splitlines() if line[:2] == "  "]
    draft, validate, dagster = commands[-3:]
    quoted = shlex.quote(str(tmp_path / "a facility" / "config.yml"))
    assert draft.startswith("scicat-dagster schema draft FILE >")
    assert validate == f"scicat-dagster validate {quoted} --live --against FILE"
    assert f"SCICAT_INGESTOR_CONFIG={quoted}" in dagster
    assert dagster.endswith(f"dagster dev -w {shlex.quote(str(tmp_path / 'a facility' / 'workspace.yaml'))}")
    assert CliRunner().invoke(main, ["schema", "draft", "--help"]).exit_code == 0
