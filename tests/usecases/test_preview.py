"""``scicat-dagster preview`` shows what a registration posts, or why there can be none, and changes nothing.

Against the stand-in for SciCat, with a real file and schema of a facility. How metadata is made from them is
for the tests of schemas and datasets.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scicat_dagster.cli import main
from scicat_dagster.config.loading import CONFIGURATION_VARIABLE, load_configuration
from scicat_dagster.dataset import ingestion
from scicat_dagster.demo.catalogue import Account, Accounts, CatalogueServer, Store, create_app
from scicat_dagster.demo.catalogue.faults import Call, FaultKind, Faults
from scicat_dagster.files.reading import look_at
from scicat_dagster.files.sidecars import write_sidecars
from scicat_dagster.schemas.loading import load_schemas
from scicat_dagster.scicat.client import ScicatClient
from scicat_dagster.scicat.registration import register

DATA = Path(__file__).parents[1] / "data"
PASSWORD = "pa55word-nobody-may-see"
VARIABLE = "PREVIEW_TEST_PASSWORD"
PROPOSAL = "443503"
JOB = "f22acb1c-950b-11ef-a3ef-fa163e9aae0a"
KEYS = [
    "file", "schema", "dataset", "origdatablock", "jobs", "difference", "warnings", "errors", "entry",
    "picture", "others",
]  # fmt: skip
LONG_AGO = 3600

INGESTOR = Account(
    "ingestor", PASSWORD, ("ingestor",),
    may_create_datasets=True, may_create_any_group=True, may_read_all=True,
)  # fmt: skip

CONFIGURATION = """\
dataset: {{default_owner_group: ingestor}}
ingestion:
  schemas_directory: schemas
  file_handling: {{data_directory: {data}, data_file_open_max_tries: 1}}
scicat: {{host: "{host}", username: ingestor, password: "${{{variable}}}", timeout: 5}}
"""


class NoFaults:
    """A plan without faults that keeps what was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def fault(self, call: Call) -> FaultKind | None:
        self.calls.append(call)
        return None


@dataclass
class Facility:
    """A folder with data, schemas and configuration, and a running catalogue."""

    folder: Path
    store: Store
    plan: NoFaults

    @property
    def file(self) -> Path:
        return self.folder / "data" / PROPOSAL / "raw" / "small-coda.hdf"

    @property
    def schema(self) -> Path:
        return self.folder / "schemas" / "small-coda.imsc.yml"

    @property
    def config(self) -> Path:
        return self.folder / "config.yml"

    def edit(self, path: Path, old: str, new: str) -> None:
        """Replace a part of a file, which has to be there."""
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, *options: str) -> Result:
        """The command; whatever it prints holds no secret."""
        arguments = ["preview", str(self.file), "--config", str(self.config), *options]
        result = CliRunner().invoke(main, arguments, env={VARIABLE: PASSWORD})
        assert PASSWORD not in result.output
        return result

    def preview(self) -> dict[str, Any]:
        """What ``--json`` prints, which is one object with the documented keys."""
        result = self.run("--json")
        shown = json.loads(result.stdout)
        assert isinstance(shown, dict)
        assert list(shown) == KEYS
        assert result.stderr == ""
        assert result.exit_code == (1 if shown["errors"] else 0)
        return shown

    def tree(self) -> dict[str, tuple[int, int]]:
        """Every file and folder with its size and time."""
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
        }


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CatalogueServer, NoFaults]]:
    accounts = Accounts((INGESTOR,))
    with Store(tmp_path_factory.mktemp("catalogue") / "catalogue.sqlite") as store:
        plan = NoFaults()
        app = Faults(create_app(store, accounts), plan, store)
        with CatalogueServer(store, accounts, app=app) as server:
            yield server, plan


@pytest.fixture
def facility(catalogue: tuple[CatalogueServer, NoFaults], tmp_path: Path) -> Facility:
    server, plan = catalogue
    server.store.clear()
    plan.calls.clear()
    server.store.add_proposal(
        PROPOSAL, title="T", pi_firstname="Ada", pi_lastname="Lovelace", pi_email="ada@example.com",
        owner_group="ingestor",
    )  # fmt: skip
    server.store.add_instrument("ODIN", unique_name="odin")
    made = Facility(tmp_path, server.store, plan)
    made.file.parent.mkdir(parents=True)
    made.schema.parent.mkdir()
    shutil.copyfile(DATA / "small-coda.hdf", made.file)
    shutil.copyfile(DATA / "small-coda.imsc.yml", made.schema)
    then = time.time() - LONG_AGO
    os.utime(made.file, (then, then))
    text = CONFIGURATION.format(data=tmp_path / "data", host=server.api_root, variable=VARIABLE)
    made.config.write_text(text, encoding="utf-8")
    return made


def test_a_file_that_could_be_registered_is_shown_as_one_json_object(facility: Facility) -> None:
    shown = facility.preview()

    assert shown["file"] == str(facility.file)
    assert shown["schema"] == {
        "id": "628b28d6-9c26-11ef-948d-0b2d405fc82f",
        "name": "Test Coda Metadata Schema",
    }
    assert shown["errors"] == []
    assert shown["picture"] == "none: /entry has no default NXdata."
    assert shown["dataset"]["pid"] == f"20.500.12269/{JOB}"
    assert shown["dataset"]["principalInvestigator"] == "Ada Lovelace"
    assert shown["dataset"]["scientificMetadata"]["job_id"]["value"] == JOB
    files = shown["origdatablock"]["dataFileList"]
    assert files[0]["path"] == "raw/small-coda.hdf"
    assert files[0]["size"] == facility.file.stat().st_size
    assert shown["origdatablock"]["datasetId"] == shown["dataset"]["pid"]
    assert all(set(warning) == {"subject", "reason"} for warning in shown["warnings"])


def test_nothing_is_posted_and_nothing_is_written(facility: Facility) -> None:
    before = facility.tree()

    assert facility.run("--json").exit_code == 0
    assert facility.run().exit_code == 0

    assert facility.tree() == before
    assert (facility.store.count_datasets(), facility.store.count_origdatablocks()) == (0, 0)
    assert {call.path for call in facility.plan.calls if call.method != "GET"} == {"auth/login"}


def test_what_is_shown_is_what_a_registration_posts(facility: Facility) -> None:
    shown = facility.preview()

    configuration = load_configuration(facility.config, {VARIABLE: PASSWORD})
    settings = configuration.settings
    with ExitStack() as stack:
        client = ScicatClient(settings.scicat)
        stack.callback(client.close)
        schemas = load_schemas(configuration.schemas_directory)
        (metadata,) = ingestion.extract_metadata(look_at(facility.file), schemas, client, settings)
        files = ingestion.describe_files(metadata.file, settings)
        write_sidecars(files)
        done = register(ingestion.build(metadata, files, settings), client, settings.ingestion)

    stored = facility.store.datasets()[0]
    block = facility.store.origdatablocks(done.pid)[0]
    assert (facility.store.count_datasets(), facility.store.count_origdatablocks()) == (1, 1)
    # The schema takes the creation time from the clock.
    assert shown["dataset"].pop("creationTime") != ""
    entries = shown["dataset"].pop("scientificMetadata")
    assert {name: stored[name] for name in shown["dataset"]} == shown["dataset"]
    assert stored["scientificMetadata"].keys() == entries.keys()
    for name, entry in entries.items():
        assert {key: stored["scientificMetadata"][name][key] for key in entry} == entry
    data_file, *sidecars = shown["origdatablock"].pop("dataFileList")
    posted_file, *posted_sidecars = block["dataFileList"]
    assert {key: posted_file[key] for key in data_file} == data_file
    assert len(sidecars) == len(posted_sidecars) == 1
    assert [{**file, "time": ""} for file in sidecars] == [
        {key: "" if key == "time" else file[key] for key in file if key in sidecars[0]}
        for file in posted_sidecars
    ]
    groups = {"ownerGroup", "accessGroups"}
    assert {name: block[name] for name in shown["origdatablock"].keys() - groups} == {
        name: value for name, value in shown["origdatablock"].items() if name not in groups
    }


def test_what_failed_without_harm_is_a_warning(facility: Facility) -> None:
    facility.edit(facility.schema, "path: /entry/end_time", "path: /entry/nowhere")

    shown = facility.preview()

    assert shown["errors"] == []
    warnings = {warning["subject"]: warning["reason"] for warning in shown["warnings"]}
    assert "/entry/nowhere" in warnings["variables.end_time"]
    assert "end_time" not in shown["dataset"]["scientificMetadata"]


def test_what_is_odd_about_the_configuration_is_a_warning(facility: Facility) -> None:
    facility.edit(facility.config, "default_owner_group", "no_such_key: 1, default_owner_group")

    warnings = [
        warning for warning in facility.preview()["warnings"] if warning["subject"] == "configuration"
    ]

    assert any("dataset.no_such_key" in warning["reason"] for warning in warnings)


def test_a_person_gets_the_same_as_text(facility: Facility) -> None:
    result = facility.run()

    assert result.exit_code == 0
    for part in (str(facility.file), "Test Coda Metadata Schema", f"20.500.12269/{JOB}", "small-coda.hdf"):
        assert part in result.stdout
    assert result.stdout.rstrip().endswith("It could be registered.")


def no_configuration(facility: Facility) -> None:
    facility.config.unlink()


def configuration_of_no_yaml(facility: Facility) -> None:
    facility.config.write_text(f'scicat: {{password: "{PASSWORD}"', encoding="utf-8")


def configuration_with_password_as_alias(facility: Facility) -> None:
    facility.edit(facility.config, f'"${{{VARIABLE}}}"', f"*{PASSWORD}")


def configuration_without_host(facility: Facility) -> None:
    text = f'scicat: {{username: ingestor, password: "{PASSWORD}"}}'
    facility.config.write_text(text, encoding="utf-8")


def variable_that_is_not_set(facility: Facility) -> None:
    facility.edit(facility.config, VARIABLE, "PREVIEW_TEST_NEVER_SET")


def wrong_password(facility: Facility) -> None:
    facility.edit(facility.config, f"${{{VARIABLE}}}", f"${{{VARIABLE}}}!")


def forged_token(facility: Facility) -> None:
    facility.edit(facility.config, "username: ingestor, password", "token")


def catalogue_that_is_not_there(facility: Facility) -> None:
    facility.config.write_text(
        "ingestion: {schemas_directory: schemas}\n"
        f'scicat: {{host: "http://127.0.0.1:1/api/v3", username: i, password: "{PASSWORD}", timeout: 0.3}}\n',
        encoding="utf-8",
    )


def no_schemas_directory(facility: Facility) -> None:
    shutil.rmtree(facility.schema.parent)


def no_schema_for_the_file(facility: Facility) -> None:
    facility.edit(facility.schema, "contains:small-coda", "contains:another")


def broken_schema(facility: Facility) -> None:
    facility.edit(facility.schema, "id: 628b28d6", "identifier: 628b28d6")


def mandatory_field_that_cannot_be_built(facility: Facility) -> None:
    facility.store.clear()


def file_that_is_not_there(facility: Facility) -> None:
    facility.file.unlink()


def file_that_is_no_nexus_file(facility: Facility) -> None:
    facility.file.write_bytes(b"not HDF5")
    then = time.time() - LONG_AGO
    os.utime(facility.file, (then, then))


def folder_instead_of_a_file(facility: Facility) -> None:
    facility.file.unlink()
    facility.file.mkdir()


def file_outside_the_data_directory(facility: Facility) -> None:
    facility.edit(facility.config, str(facility.folder / "data"), str(facility.folder / "elsewhere"))


def fallback_that_does_not_exist(facility: Facility) -> None:
    facility.edit(
        facility.config, "schemas_directory", "fallback_schema_file_path: nowhere\n  schemas_directory"
    )


FAILURES: list[tuple[Callable[[Facility], None], str, str]] = [
    (no_configuration, "configuration", "cannot be read"),
    (configuration_of_no_yaml, "configuration", "not YAML"),
    (configuration_with_password_as_alias, "configuration", "not YAML"),
    (configuration_without_host, "configuration", "scicat.host: is missing"),
    (variable_that_is_not_set, "configuration", "PREVIEW_TEST_NEVER_SET is not set"),
    (wrong_password, "file", "Unauthorized"),
    (forged_token, "file", "expired or is wrong"),
    (catalogue_that_is_not_there, "file", "cannot be reached"),
    (no_schemas_directory, "file", "cannot be listed"),
    (no_schema_for_the_file, "file", "No schema is for"),
    (broken_schema, "file", "id: is missing"),
    (mandatory_field_that_cannot_be_built, "file", "principalInvestigator"),
    (file_that_is_not_there, "file", "small-coda.hdf"),
    (file_that_is_no_nexus_file, "file", "small-coda.hdf"),
    (folder_instead_of_a_file, "file", "small-coda.hdf"),
    (file_outside_the_data_directory, "file", "outside the data directory"),
    (fallback_that_does_not_exist, "file", "nowhere"),
]


@pytest.mark.parametrize(
    ("spoil", "subject", "words"), FAILURES, ids=[spoil.__name__ for spoil, _, _ in FAILURES]
)
def test_why_a_file_could_not_be_registered_is_said_with_a_remedy(
    facility: Facility, spoil: Callable[[Facility], None], subject: str, words: str
) -> None:
    spoil(facility)
    before = facility.tree()

    shown = facility.preview()
    text = facility.run()

    (error,) = shown["errors"]
    assert set(error) == {"subject", "reason", "remedy"}
    assert error["subject"] == subject
    assert words in error["reason"]
    assert len(error["remedy"]) > 10
    assert (shown["dataset"], shown["origdatablock"]) == (None, None)
    assert text.exit_code == 1
    assert error["remedy"] in text.stdout
    assert text.stdout.rstrip().endswith("It could not be registered.")
    assert facility.tree() == before
    assert facility.store.count_datasets() == 0
    assert {call.path for call in facility.plan.calls if call.method != "GET"} <= {"auth/login"}


def test_all_mandatory_fields_that_cannot_be_built_are_named(facility: Facility) -> None:
    facility.store.clear()

    (error,) = facility.preview()["errors"]

    for name in ("owner", "contactEmail", "principalInvestigator"):
        assert f"{name}: " in error["reason"]
    assert "proposals/443503" in error["reason"]


def test_the_command_as_a_process(facility: Facility) -> None:
    environment = {**os.environ, VARIABLE: PASSWORD, CONFIGURATION_VARIABLE: str(facility.config)}
    command = [str(Path(sys.executable).with_name("scicat-dagster")), "preview", "--json"]

    good = subprocess.run(
        [*command, facility.file.name],
        cwd=facility.file.parent, env=environment, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    bad = subprocess.run(
        [*command, "nowhere.hdf"],
        cwd=facility.file.parent, env=environment, timeout=60, capture_output=True, text=True,
    )  # fmt: skip

    assert (good.returncode, bad.returncode) == (0, 1)
    assert json.loads(good.stdout)["file"] == str(facility.file)
    assert list(json.loads(bad.stdout)) == KEYS
    assert PASSWORD not in good.stdout + good.stderr + bad.stdout + bad.stderr
    assert facility.store.count_datasets() == 0
