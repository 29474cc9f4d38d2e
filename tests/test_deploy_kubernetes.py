"""What is deployed on Kubernetes: pods of Dagster's Helm chart, and pods beside it, with one instance.

The chart is not at hand here; what it makes of the values is told in ``deploy/README.md``.
"""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type

from scicat_dagster.config.models import IngestionSettings
from scicat_dagster.instance.code_location import MODULE_VARIABLE

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
VALUES: Mapping[str, Any] = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text())
BESIDE: Mapping[tuple[str, str], Any] = {
    (item["kind"], item["metadata"]["name"]): item
    for item in yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())["items"]
}
INSTANCE: Mapping[str, Any] = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
(CODE_SERVER,) = VALUES["dagster-user-deployments"]["deployments"]


@dataclass(frozen=True)
class Pod:
    """What the two notations have in common."""

    image: str
    environment: Mapping[str, Any]
    secrets: list[str]
    mounts: Mapping[str, Any]
    volumes: Mapping[str, Any]
    security: Any
    rights: Any


def by_name(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["name"]: {key: value for key, value in item.items() if key != "name"} for item in items}


def pod_of_the_chart(part: Mapping[str, Any]) -> Pod:
    image = part["image"]
    return Pod(
        f"{image['repository']}:{image['tag']}",
        by_name(part["env"]),
        [secret["name"] for secret in part["envSecrets"]],
        by_name(part["volumeMounts"]),
        by_name(part["volumes"]),
        part["podSecurityContext"],
        part["securityContext"],
    )


def pod_beside(name: str) -> Pod:
    spec = BESIDE["Deployment", name]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return Pod(
        container["image"],
        by_name(container["env"]),
        [source["secretRef"]["name"] for source in container["envFrom"]],
        by_name(container["volumeMounts"]),
        by_name(spec["volumes"]),
        spec["securityContext"],
        container["securityContext"],
    )


WORKERS = "scicat-dagster-workers"
PODS = {
    "code server": pod_of_the_chart(CODE_SERVER),
    "daemon": pod_of_the_chart(VALUES["dagsterDaemon"]),
    "webserver": pod_of_the_chart(VALUES["dagsterWebserver"]),
    "workers": pod_beside(WORKERS),
    "health": pod_beside("scicat-dagster-health"),
}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


@each_pod
def test_a_pod_uses_the_instance_in_the_image(pod: Pod) -> None:
    home = pod.environment["DAGSTER_HOME"]["value"]
    steps = (DEPLOY / "Dockerfile").read_text()

    assert f"COPY deploy/dagster.yaml {home}/dagster.yaml\n" in steps
    # Nothing lies over it, and the chart's own is elsewhere.
    assert "dagsterHome" not in VALUES["global"]
    assert not [mount for mount in pod.mounts.values() if f"{home}/".startswith(f"{mount['mountPath']}/")]
    assert (pod.image, pod.environment, pod.secrets, pod.security, pod.rights) == (
        PODS["code server"].image,
        PODS["code server"].environment,
        PODS["code server"].secrets,
        PODS["code server"].security,
        PODS["code server"].rights,
    )


def test_nothing_is_said_of_the_instance_that_nobody_reads() -> None:
    silent = {
        "computeLogManager",
        "pythonLogs",
        "retention",
        "scheduler",
        "telemetry",
        "additionalInstanceConfig",
    }
    silent_of_daemon = {"runCoordinator", "runMonitoring", "runRetries", "sensors", "schedules"}

    assert not silent & VALUES.keys()
    assert not silent_of_daemon & VALUES["dagsterDaemon"].keys()


@each_pod
def test_a_pod_has_all_that_the_instance_takes_from_the_environment(pod: Pod) -> None:
    missing = set(names_from_environment(INSTANCE)) - pod.environment.keys()

    # The addresses have passwords in them: keys of the secret, as deploy/README.md says.
    assert missing == {"DAGSTER_CELERY_BROKER", "DAGSTER_CELERY_BACKEND"}
    page = (DEPLOY / "README.md").read_text()
    assert all(f"`{name}`" in page for name in [*missing, *pod.secrets])


def names_from_environment(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.keys() == {"env"}:
            yield value["env"]
        for inner in value.values():
            yield from names_from_environment(inner)


def test_the_chart_waits_for_the_same_database() -> None:
    environment, chart = PODS["daemon"].environment, VALUES["postgresql"]

    assert chart["enabled"] is False
    assert {
        "DAGSTER_POSTGRES_HOST": {"value": chart["postgresqlHost"]},
        "DAGSTER_POSTGRES_PORT": {"value": str(chart["service"]["port"])},
        "DAGSTER_POSTGRES_USER": {"value": chart["postgresqlUsername"]},
        "DAGSTER_POSTGRES_DB": {"value": chart["postgresqlDatabase"]},
    }.items() <= environment.items()
    password = environment["DAGSTER_POSTGRES_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert password["name"] == VALUES["global"]["postgresqlSecretName"]


@each_pod
def test_the_image_is_that_of_this_version(pod: Pod) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert pod.image == f"scicat-dagster:{version}"
    assert f"-t {pod.image} " in (DEPLOY / "README.md").read_text()


@each_pod
def test_a_pod_has_the_volumes_that_it_mounts(pod: Pod) -> None:
    code_server = PODS["code server"]

    assert pod.mounts.keys() == pod.volumes.keys()
    configuration = Path(pod.environment["SCICAT_INGESTOR_CONFIG"]["value"]).parent
    assert pod.mounts["config"] == {"mountPath": str(configuration), "readOnly": True}
    for name in pod.volumes.keys() & code_server.volumes.keys():
        assert (pod.volumes[name], pod.mounts[name]) == (code_server.volumes[name], code_server.mounts[name])
    # Kubernetes would give every file of the facility's data to that group.
    assert "fsGroup" not in pod.security


def test_workers_share_what_ops_hand_on() -> None:
    home = PODS["workers"].environment["DAGSTER_HOME"]["value"]

    assert PODS["workers"].mounts["storage"] == {"mountPath": f"{home}/storage"}


def test_workers_are_started_as_on_any_other_machine() -> None:
    spec = BESIDE["Deployment", WORKERS]["spec"]
    pod = spec["template"]["spec"]
    here = [*pod["containers"][0]["command"], *pod["containers"][0]["args"]]
    programs = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    programs.read(DEPLOY / "worker.conf")
    elsewhere = shlex.split(programs["program:worker"]["command"].split(" -- ")[1])

    # A pod's name is its own, and so is that of its group of workers.
    at = elsewhere.index("--hostname")
    del elsewhere[at : at + 2]
    processes = int(here[here.index("--concurrency") + 1])
    elsewhere[elsewhere.index("--concurrency") + 1] = str(processes)
    elsewhere[0] = Path(elsewhere[0]).name
    assert options(here) == options(elsewhere)
    assert pod["terminationGracePeriodSeconds"] == int(programs["program:worker"]["stopwaitsecs"])
    assert spec["replicas"] * processes <= IngestionSettings().max_offline_ingestors


def options(command: list[str]) -> list[str]:
    """The command and its options, in an order of their own."""
    return sorted(re.split(r" (?=--)", shlex.join(command)))


def test_the_location_has_its_one_name() -> None:
    (location,) = VALUES["dagsterWebserver"]["workspace"]["servers"]

    assert CODE_SERVER["dagsterApiGrpcArgs"] == ["--module-name", "scicat_dagster.definitions"]
    # Workers load it before runs come.
    assert PODS["workers"].environment[MODULE_VARIABLE]["value"] == "scicat_dagster.definitions"
    assert location == {"host": CODE_SERVER["name"], "port": CODE_SERVER["port"], "name": "scicat_dagster"}
    assert VALUES["dagsterWebserver"]["workspace"]["enabled"] is True


def test_only_the_daemon_and_the_webserver_reach_the_code_server() -> None:
    rules = BESIDE["NetworkPolicy", "scicat-dagster-code-server"]["spec"]

    assert rules["podSelector"]["matchLabels"]["deployment"] == CODE_SERVER["name"]
    (rule,) = rules["ingress"]
    assert rule["ports"] == [{"port": CODE_SERVER["port"]}]
    (source,) = rule["from"]
    (expression,) = source["podSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("component", "In")
    assert set(expression["values"]) == {"dagster-daemon", "dagster-webserver"}


def test_a_listener_is_asked_where_it_listens() -> None:
    webserver = VALUES["dagsterWebserver"]
    assert webserver["readinessProbe"]["httpGet"]["port"] == webserver["service"]["port"] >= 1024

    (health,) = BESIDE["Deployment", "scicat-dagster-health"]["spec"]["template"]["spec"]["containers"]
    (port,) = health["ports"]
    assert f"health_check.port={port['containerPort']}" in health["args"]
    assert "health_check.host=0.0.0.0" in health["args"]
    assert health["livenessProbe"]["httpGet"] == {"path": "/live", "port": port["name"]}


NAMED = [
    INSTANCE["storage"]["custom"],
    INSTANCE["run_launcher"],
    INSTANCE["run_coordinator"],
    INSTANCE["compute_logs"],
    VALUES["runLauncher"]["config"]["customRunLauncher"],
]


@pytest.mark.parametrize("named", NAMED, ids=lambda named: str(named["class"]))
def test_a_class_that_is_named_takes_what_is_said_of_it(
    named: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names_from_environment(INSTANCE):
        monkeypatch.setenv(name, "5432")

    found = getattr(import_module(named["module"]), named["class"])
    result = process_config(resolve_to_config_type(found.config_type()), named.get("config", {}))

    assert result.success, result.errors


def test_the_values_and_the_instance_name_one_launcher() -> None:
    launcher = VALUES["runLauncher"]["config"]["customRunLauncher"]

    assert VALUES["runLauncher"]["type"] == "CustomRunLauncher"
    assert (launcher["module"], launcher["class"]) == (
        INSTANCE["run_launcher"]["module"],
        INSTANCE["run_launcher"]["class"],
    )
