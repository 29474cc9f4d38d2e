"""Reading from a Kafka that wants a login: SCRAM over TLS, client certificates, and rights for each topic."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from scicat_dagster.config.models import KafkaSettings
from scicat_dagster.demo.broker import LOOPBACK
from scicat_dagster.diagnostics.report import Report
from scicat_dagster.diagnostics.servers import check_kafka
from scicat_dagster.errors import IngestionError, PermanentError
from scicat_dagster.kafka.client import BrokerAwayError
from scicat_dagster.kafka.cursor import Cursor
from scicat_dagster.kafka.producer import send
from scicat_dagster.kafka.reader import AnnouncementReader
from tests.brokers import ApacheKafka, KafkaUnavailableError, free_ports, read_topic, unique_name

USER, PASSWORD = "reader", "pa55word-nobody-may-see"

_SECURE = """\
listeners=PLAINTEXT://{host}:{port},SCRAM://{host}:{scram},CERT://{host}:{cert},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port},SCRAM://{host}:{scram},CERT://{host}:{cert}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,CERT:SSL
inter.broker.listener.name=PLAINTEXT
listener.name.cert.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.scram.scram-sha-256.sasl.jaas.config=\\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={certificates}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={certificates}/ca.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class SecuredKafka(ApacheKafka):
    """Plaintext for whoever sets it up, SCRAM over TLS and client certificates for whoever reads."""

    format_options = ("--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]")

    def properties(self, directory: Path, *, port: int, controller_port: int) -> str:
        self.scram_port, self.certificate_port = free_ports(2)
        self.certificates = directory / "certificates"
        make_certificates(self.certificates)
        plain = super().properties(directory, port=port, controller_port=controller_port)
        lines = [line for line in plain.splitlines() if not line.startswith(("listener", "advertised"))]
        return "\n".join(lines) + "\n" + _SECURE.format(
            host=LOOPBACK, port=port, scram=self.scram_port, cert=self.certificate_port,
            controller=controller_port, certificates=self.certificates,
        )  # fmt: skip

    def allow(self, topic: str, principal: str, *operations: AclOperation) -> None:
        """Give somebody rights on a topic."""
        admin: Any = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for operation in operations:
            rule = AclBinding(
                ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, principal, "*", operation,
                AclPermissionType.ALLOW,
            )  # fmt: skip
            for future in admin.create_acls([rule]).values():
                future.result(10)


def make_certificates(folder: Path) -> None:
    """A certificate authority, and certificates of a server and a client that it has signed."""
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=ca",
            "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    for name in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName=IP:{LOOPBACK}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30",
                "-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip
        # Kafka reads key and certificate from one file.
        both = (folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text()
        (folder / f"{name}.pem").write_text(both)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    if shutil.which("openssl") is None:
        pytest.skip("There is no openssl to make certificates with.")
    try:
        broker = SecuredKafka(tmp_path_factory.mktemp("secured"))
    except KafkaUnavailableError as reason:
        pytest.skip(f"No Apache Kafka here: {reason}")
    with broker:
        yield broker


def group_rights(kafka: SecuredKafka, principal: str) -> None:
    admin: Any = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    rule = AclBinding(
        ResourceType.GROUP, "scicat", ResourcePatternType.LITERAL, principal, "*", AclOperation.ALL,
        AclPermissionType.ALLOW,
    )  # fmt: skip
    for future in admin.create_acls([rule]).values():
        future.result(10)


def produced(kafka: SecuredKafka, *principals: str, rights: tuple[AclOperation, ...]) -> str:
    """A topic with one message, on which these have rights."""
    topic = unique_name("files")
    kafka.create_topic(topic)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    producer.produce(topic, b"one")
    assert producer.flush(30) == 0
    for principal in principals:
        kafka.allow(topic, principal, *rights)
        group_rights(kafka, principal)
    return topic


READ = (AclOperation.READ, AclOperation.DESCRIBE)


def scram(kafka: SecuredKafka, *topics: str, **changes: object) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "topics": list(topics),
            "group_id": "scicat",
            "bootstrap_servers": f"{LOOPBACK}:{kafka.scram_port}",
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_username": USER,
            "sasl_password": PASSWORD,
            "ssl_ca_location": str(kafka.certificates / "ca.pem"),
            **changes,
        }
    )


def certified(kafka: SecuredKafka, *topics: str) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "topics": list(topics),
            "group_id": "scicat",
            "bootstrap_servers": f"{LOOPBACK}:{kafka.certificate_port}",
            "security_protocol": "ssl",
            "ssl_ca_location": str(kafka.certificates / "ca.pem"),
            "options": {
                "ssl.certificate.location": str(kafka.certificates / "client.crt"),
                "ssl.key.location": str(kafka.certificates / "client.key"),
                "client.id": "scicat_dagster",
            },
        }
    )


def read(settings: KafkaSettings) -> tuple[list[bytes | None], dict[str, str]]:
    """What is read from the beginning, and which topics cannot be read."""
    reader = AnnouncementReader(settings)
    try:
        batch = reader.read(Cursor(), most=10, wait_seconds=10)
    finally:
        reader.close()
    return [message.value for message in batch.messages], batch.unreadable


def test_a_login_with_scram_over_tls_reads(kafka: SecuredKafka) -> None:
    topic = produced(kafka, f"User:{USER}", rights=READ)

    assert read(scram(kafka, topic)) == ([b"one"], {})
    report = Report(config="")
    check_kafka(scram(kafka, topic), report)
    assert [check.result for check in report.checks] == ["ok", "ok"]


def test_a_client_certificate_reads(kafka: SecuredKafka) -> None:
    topic = produced(kafka, "User:CN=client", rights=READ)

    assert read(certified(kafka, topic)) == ([b"one"], {})


def test_a_client_certificate_sends_dead_letters(kafka: SecuredKafka) -> None:
    topic = produced(kafka, "User:CN=client", rights=(AclOperation.WRITE, AclOperation.DESCRIBE))

    send(certified(kafka, topic), topic, [b"two", None])

    assert [record.value for record in read_topic(kafka.bootstrap_servers, topic)] == [b"one", b"two", None]


def test_a_wrong_password_is_said_without_it(kafka: SecuredKafka) -> None:
    topic = produced(kafka, f"User:{USER}", rights=READ)
    wrong = scram(kafka, topic, sasl_password=f"not {PASSWORD}")

    with pytest.raises(BrokerAwayError) as failure:
        read(wrong)

    assert PASSWORD not in f"{failure.value} {failure.value.details}"


@pytest.mark.parametrize("rights", [(), (AclOperation.DESCRIBE,)], ids=["none", "describe only"])
def test_a_topic_without_the_right_to_read_it_does_not_stop_the_others(
    kafka: SecuredKafka, rights: tuple[AclOperation, ...]
) -> None:
    good = produced(kafka, f"User:{USER}", rights=READ)
    forbidden = produced(kafka, f"User:{USER}", rights=rights)

    # What may not be read may be said after the first message has ended a poll.
    reader, cursor = AnnouncementReader(scram(kafka, forbidden, good)), Cursor()
    values: list[bytes | None] = []
    unreadable: dict[str, str] = {}
    try:
        while not (values and unreadable):
            batch = reader.read(cursor, most=10, wait_seconds=1)
            values += [message.value for message in batch.messages]
            unreadable |= batch.unreadable
            cursor = batch.cursor
    finally:
        reader.close()

    assert values == [b"one"]
    assert unreadable.keys() == {forbidden}
    assert "uthorization" in unreadable[forbidden]


@pytest.mark.parametrize(
    "options", [{"no.such.option": PASSWORD}, {"session.timeout.ms": PASSWORD}, {"ssl.key.pem": PASSWORD}]
)
def test_options_that_librdkafka_refuses_are_a_permanent_failure_without_their_values(
    kafka: SecuredKafka, options: dict[str, str]
) -> None:
    settings = scram(kafka, "files", options=options)

    with pytest.raises(PermanentError) as failure:
        read(settings)

    assert "kafka section" in failure.value.what
    assert PASSWORD not in str(failure.value)
    report = Report(config="")
    check_kafka(settings, report)
    assert PASSWORD not in report.model_dump_json()
    assert isinstance(failure.value, IngestionError)
