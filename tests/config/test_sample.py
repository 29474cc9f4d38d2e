"""The sample configuration: it can be read, has every key, and is the one in the documentation."""

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from scicat_dagster.cli import main
from scicat_dagster.config.loading import load_configuration
from scicat_dagster.config.models import Settings
from scicat_dagster.config.sample import sample_configuration

DOCUMENTED = Path(__file__).parents[2] / "docs" / "reference" / "config.sample.yml"


def keys(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a model, with those of its sections; None where a key is not a section."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        section = field.annotation
        found[name] = keys(section) if isinstance(section, type) and issubclass(section, BaseModel) else None
    return found


def keys_of(written: Any, known: dict[str, Any]) -> dict[str, Any]:
    """The keys that are written, down to those that are no section."""
    return {
        name: None if known[name] is None else keys_of(value, known[name]) for name, value in written.items()
    }


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(main, ["schema", "sample-config"])

    assert (result.exit_code, result.stdout) == (0, sample_configuration())


def test_the_documentation_holds_the_same() -> None:
    written = DOCUMENTED.read_text(encoding="utf-8")

    assert written == sample_configuration(), f"run `scicat-dagster schema sample-config > {DOCUMENTED}`"


def test_it_has_every_key_and_no_other() -> None:
    assert keys_of(yaml.safe_load(sample_configuration()), keys(Settings)) == keys(Settings)


def test_every_key_is_explained_above_it() -> None:
    lines = sample_configuration().splitlines()

    unexplained = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.lstrip().startswith("#") and not above.lstrip().startswith("# ")
    ]

    assert unexplained == []
    assert max(map(len, lines)) <= 110


def test_it_says_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(sample_configuration(), encoding="utf-8")

    configuration = load_configuration(path, {})

    assert configuration.settings == Settings.model_validate(
        {"scicat": {"host": "https://scicat.example.org/api/v3"}}
    )
    assert configuration.warnings == (
        "scicat: neither token nor username is given, so nothing can be registered.",
        "kafka.topics is empty: no announcement will be read.",
    )
