"""Kafka brokers for the tests, and the reading of whole topics.

Here: the in-memory broker of the demo, Apache Kafka itself as a process of this machine, and the fixtures
that give them to a test. Not here: what is produced (``scicat_dagster.demo.file_writer``) and any assertion.

Apache Kafka's jars come from Maven Central once and stay in the user's cache directory. Where Java, Maven or
the registry are missing, the tests that need the real broker are skipped and say why. With
``KAFKA_BOOTSTRAP_SERVERS`` set, ``apache_kafka`` is the broker found there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from scicat_dagster.demo.broker import LOOPBACK, LoopbackBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

KAFKA_VERSION = "4.2.0"
LOG4J_VERSION = "2.25.3"
"""The release of log4j that this Kafka brings; its bridge makes the broker's errors readable."""

OLDEST_JAVA = 17

_CLUSTER_ID = "c2NpY2F0LWRhZ3N0ZXItMQ"
_SMALL_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_DOWNLOAD_SECONDS = 240
_START_SECONDS = 60
_STOP_SECONDS = 30
_ADMIN_SECONDS = 10

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>scicat-dagster</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

# One broker that is its own controller. A killed broker may return only when its session is over, which takes
# 9 s by default.
_SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
"""


class KafkaUnavailableError(Exception):
    """Apache Kafka cannot be had on this machine; the text says what is missing."""


class Broker(Protocol):
    """What a test needs of a broker, whichever it is."""

    @property
    def bootstrap_servers(self) -> str: ...

    def create_topic(self, name: str, partitions: int = 1) -> None: ...

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None: ...


class KafkaCluster:
    """A real Kafka that somebody else runs, at ``bootstrap_servers``."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` for a client's ``bootstrap.servers``."""
        return self._bootstrap_servers

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Add an empty topic and return when it can be written.

        Raises
        ------
        KafkaException
            The topic exists already, or the broker does not answer.
        """
        admin = self._admin()
        futures = admin.create_topics([NewTopic(name, partitions, 1)], operation_timeout=_ADMIN_SECONDS)
        futures[name].result(_ADMIN_SECONDS)
        self._wait_for_leaders(admin, time.monotonic() + _ADMIN_SECONDS, topics={name})

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete all messages before ``before_offset``, as the retention does with old ones.

        Raises
        ------
        KafkaException
            No such topic or partition.
        """
        where = TopicPartition(topic, partition, before_offset)
        # The order dies with its client, so the client needs a name until the answer is here.
        admin = self._admin()
        admin.delete_records([where])[where].result(_ADMIN_SECONDS)

    def _admin(self) -> Any:
        return AdminClient(
            {
                "bootstrap.servers": self._bootstrap_servers,
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 200,
                # A broker that is not up yet is expected here, and said by an exception when it stays away.
                "log_level": 0,
            }
        )

    def _wait_for_leaders(self, admin: Any, deadline: float, *, topics: set[str] | None = None) -> None:
        while True:
            try:
                known = admin.list_topics(timeout=1).topics
            except KafkaException:
                known = None
            if known is not None and (topics or set()) <= known.keys():
                partitions = [each for topic in known.values() for each in topic.partitions.values()]
                if all(partition.leader >= 0 for partition in partitions):
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Kafka at {self._bootstrap_servers} is not ready in time.")


class ApacheKafka(KafkaCluster):
    """A single-node Apache Kafka in KRaft mode as a child process; loopback only, topics made explicitly.

    Address and data stay the same over stop, kill and start. Use it as a context manager, or call
    :meth:`start` and :meth:`stop`.

    Parameters
    ----------
    directory
        An empty folder of its own for configuration, data and the broker's output.
    jars
        The folder of Kafka's jars; by default :func:`kafka_jars`.

    Raises
    ------
    KafkaUnavailableError
        No suitable Java, or no jars.
    """

    def __init__(self, directory: Path, *, jars: Path | None = None) -> None:
        self._java = _java()
        self._jars = jars or kafka_jars()
        port, controller_port = free_ports(2)
        super().__init__(f"{LOOPBACK}:{port}")
        self._output = directory / "broker.log"
        self._properties = directory / "server.properties"
        self._properties.write_text(
            self.properties(directory, port=port, controller_port=controller_port), encoding="utf-8"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._is_formatted = False

    format_options: tuple[str, ...] = ()
    """What Kafka's storage is formatted with, beside what it has to be."""

    def properties(self, directory: Path, *, port: int, controller_port: int) -> str:
        """The text of ``server.properties``."""
        return _SERVER_PROPERTIES.format(
            host=LOOPBACK, port=port, controller_port=controller_port, data=directory / "data"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker and return when every partition can be read and written.

        Raises
        ------
        RuntimeError
            The broker ended at once; the text holds the end of its output.
        TimeoutError
            It runs but is not ready in time.
        """
        if self._process is not None:
            raise RuntimeError("This broker runs already.")
        if not self._is_formatted:
            self._format()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command(), "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.kill)
            self._wait_until_ready(self._process)
            on_failure.pop_all()

    def stop(self) -> None:
        """End the broker as an operator does (SIGTERM), or kill it where that takes long. May be repeated."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the broker as a power cut does (SIGKILL). May be repeated."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop in order and start again, with the same address and data."""
        self.stop()
        self.start()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        admin = self._admin()
        while True:
            try:
                return self._wait_for_leaders(admin, min(deadline, time.monotonic() + 1))
            except TimeoutError:
                if process.poll() is not None:
                    raise RuntimeError(f"Kafka ended at once: {self._last_output()}") from None
                if time.monotonic() > deadline:
                    raise

    def _format(self) -> None:
        command = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties)]
        done = subprocess.run(
            [*self._command(), *command, *self.format_options],
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage cannot be formatted: {done.stdout}{done.stderr}")
        self._is_formatted = True

    def _command(self) -> list[str]:
        return [self._java, *_SMALL_JVM, "-cp", f"{self._jars}/*"]

    def _last_output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")[-2000:]


def kafka_jars() -> Path:
    """The folder of Apache Kafka's jars, filled from Maven Central the first time.

    Raises
    ------
    KafkaUnavailableError
        No Maven, or no registry within its reach.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scicat_dagster"
    jars = cache / f"kafka-{KAFKA_VERSION}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError(f"{jars} does not exist, and there is no Maven (mvn) to fill it.")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "download.lock").open("w") as lock:
        # Maven's own cache does not stand two downloads at once, as of the processes of pytest-xdist.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            _download(maven, cache, jars)
    return jars


def _download(maven: str, cache: Path, jars: Path) -> None:
    # Filled elsewhere and renamed, so that an interrupted download is never taken for it.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        (Path(folder) / "pom.xml").write_text(_POM, encoding="utf-8")
        command = [maven, "-B", "-q", "dependency:copy-dependencies"]
        options = ["-DincludeScope=runtime", "-DoutputDirectory=jars"]
        try:
            done = subprocess.run(
                [*command, *options], cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise KafkaUnavailableError(f"Maven did not get Kafka within {_DOWNLOAD_SECONDS} s.") from None
        if done.returncode != 0:
            reason = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
            raise KafkaUnavailableError(f"Maven cannot get Kafka {KAFKA_VERSION}: {reason[:300]}")
        (Path(folder) / "jars").rename(jars)


@dataclass(frozen=True)
class Record:
    """One message as it lies in a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def read_topic(bootstrap_servers: str, topic: str, *, timeout: float = 10.0) -> list[Record]:
    """All messages that are in a topic now, partition by partition in the order of their offsets.

    Raises
    ------
    TimeoutError
        They do not come within ``timeout`` seconds.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"read-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=timeout).topics[topic].partitions
        ends: dict[int, int] = {}
        starts: list[Any] = []
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout)
            if high > low:
                ends[partition] = high
                starts.append(TopicPartition(topic, partition, low))
        consumer.assign(starts)
        records: list[Record] = []
        deadline = time.monotonic() + timeout
        while ends:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still missing in {topic}: partitions {sorted(ends)}.")
            for message in consumer.consume(1000, timeout=0.05):
                if message.error() is not None:
                    raise KafkaException(message.error())
                partition, offset = message.partition(), message.offset()
                if partition in ends and offset < ends[partition]:
                    records.append(Record(partition, offset, message.key(), message.value()))
                if partition in ends and offset >= ends[partition] - 1:
                    del ends[partition]
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def unique_name(prefix: str) -> str:
    """A topic or group name that no other test uses, for brokers that several tests share."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def free_ports(number: int) -> list[int]:
    """Loopback TCP ports at which nobody listens at this moment."""
    # All are held at once, so that they differ.
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in held]


@pytest.fixture
def loopback_broker() -> Iterator[LoopbackBroker]:
    """An in-memory broker of the test's own."""
    with LoopbackBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """The real Kafka that all tests share: use :func:`unique_name`, and leave it running."""
    running = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if running:
        yield KafkaCluster(running)
        return
    with _apache_kafka_or_skip(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture
def own_apache_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """A running Apache Kafka of the test's own, to be stopped, killed and restarted at will."""
    directory = tmp_path / "kafka"
    directory.mkdir()
    with _apache_kafka_or_skip(directory) as kafka:
        yield kafka


@pytest.fixture(params=["loopback", "apache"])
def any_broker(request: pytest.FixtureRequest) -> Broker:
    """Each kind of broker in turn: what a test says with it holds for the real one as for its stand-in."""
    name = {"loopback": "loopback_broker", "apache": "apache_kafka"}[request.param]
    broker: Broker = request.getfixturevalue(name)
    return broker


def _apache_kafka_or_skip(directory: Path) -> ApacheKafka:
    try:
        return ApacheKafka(directory)
    except KafkaUnavailableError as reason:
        pytest.skip(f"No Apache Kafka here: {reason}")


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise KafkaUnavailableError("There is no Java (java).")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise KafkaUnavailableError(f"Kafka {KAFKA_VERSION} needs Java {OLDEST_JAVA}; {java} says {said!r}.")
    return java
