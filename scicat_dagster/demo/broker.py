"""A Kafka broker on the loopback interface, with nothing to install.

Here: librdkafka's mock cluster, which confluent-kafka's wheel already holds, as a class and as a program
(``python -m scicat_dagster.demo.broker``). Not here: who produces to it (``demo.file_writer``), who consumes.

What this broker is not: it keeps 5 MiB per partition and nothing at all over a restart, answers -1 to every
search for an offset by time, and makes 4 partitions for a topic that nobody created. librdkafka calls the
underlying interface (``rdkafka_mock.h``) experimental, so a missing function is reported by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ctypes.util
import enum
import functools
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
import confluent_kafka

if TYPE_CHECKING:
    from types import TracebackType

LOOPBACK = "127.0.0.1"

_ONLY_BROKER = 1
_PRODUCER = 0
_WARNINGS = b"4"
_COPY_BUFFER_BYTES = 1 << 16

_POINTER = ctypes.c_void_p
_TEXT = ctypes.c_char_p
_CODE = ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (_CODE, [_POINTER, _TEXT, _TEXT, _TEXT, ctypes.c_size_t]),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, _TEXT, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_err2str": (_TEXT, [_CODE]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, [_POINTER]),
    "rd_kafka_mock_topic_create": (_CODE, [_POINTER, _TEXT, ctypes.c_int, ctypes.c_int]),
    "rd_kafka_mock_partition_delete_records": (_CODE, [_POINTER, _TEXT, ctypes.c_int32, ctypes.c_int64]),
    "rd_kafka_mock_broker_set_down": (_CODE, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (_CODE, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_host_port": (None, [_POINTER, ctypes.c_int32, _TEXT, ctypes.c_int]),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [_POINTER, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
    ),
}


class BrokerError(Exception):
    """The broker refused an order, or cannot be had on this machine; the text says which and why."""


class Request(enum.IntEnum):
    """The kinds of request that :meth:`LoopbackBroker.push_errors` can refuse, by Kafka's API keys."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9


class LoopbackBroker:
    """One Kafka broker that serves every process of this machine for as long as the object is open.

    It takes a few milliseconds to start and is ready when the constructor returns. Use it as a context
    manager, or call :meth:`close`. Its methods may be called from any thread, but none after ``close``.

    Parameters
    ----------
    port
        TCP port on 127.0.0.1 at which clients find the broker, so that a configuration file can name it;
        0 takes a free one.

    Raises
    ------
    BrokerError
        confluent-kafka on this machine holds no librdkafka with a mock cluster.
    OSError
        The port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._library = _librdkafka()
        self._client = _new_client(self._library)
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self._forwarder: _Forwarder | None = None
        address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._port = int(address.rpartition(":")[2])
        if port:
            try:
                self._forwarder = _Forwarder(port, target_port=self._port)
            except OSError:
                self.close()
                raise
            # Clients connect to the address that the broker says of itself, not to the one they were given.
            self._library.rd_kafka_mock_broker_set_host_port(
                self._cluster, _ONLY_BROKER, LOOPBACK.encode(), port
            )
            self._port = port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` for a client's ``bootstrap.servers``."""
        return f"{LOOPBACK}:{self._port}"

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Add an empty topic.

        Raises
        ------
        BrokerError
            The topic exists already, or the number of partitions is not positive.
        """
        order = f"create topic {name!r} with {partitions} partitions"
        # librdkafka would make a topic without partitions, which no client can use.
        if partitions < 1:
            raise BrokerError(f"Cannot {order}: it needs at least one.")
        self._check(
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1), order
        )

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        """Forget all messages before ``before_offset``, as a broker does with those past their retention.

        Raises
        ------
        BrokerError
            No such topic or partition.
        """
        self._check(
            self._library.rd_kafka_mock_partition_delete_records(
                self._cluster, topic.encode(), partition, before_offset
            ),
            f"delete the records of {topic}:{partition} before {before_offset}",
        )

    def set_down(self) -> None:
        """Disconnect every client and accept no new connection; messages and offsets stay."""
        self._check(
            self._library.rd_kafka_mock_broker_set_down(self._cluster, _ONLY_BROKER), "take the broker down"
        )

    def set_up(self) -> None:
        """Accept connections again after :meth:`set_down`, at the same address."""
        self._check(
            self._library.rd_kafka_mock_broker_set_up(self._cluster, _ONLY_BROKER), "bring the broker up"
        )

    def push_errors(self, request: Request, *codes: int) -> None:
        """Answer the next ``len(codes)`` requests of one kind, by whichever client, with these error codes.

        ``codes`` are those of ``confluent_kafka.KafkaError``; ``_TRANSPORT`` cuts the connection instead.
        """
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, int(request), len(codes), (ctypes.c_int * len(codes))(*codes)
        )

    def close(self) -> None:
        """Disconnect every client and forget all messages. Closing twice does nothing."""
        if self._forwarder is not None:
            self._forwarder.close()
            self._forwarder = None
        if self._cluster is not None:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
            self._library.rd_kafka_destroy(self._client)

    def _check(self, code: int, order: str) -> None:
        if code:
            reason = self._library.rd_kafka_err2str(code).decode()
            raise BrokerError(f"Cannot {order}: {reason}.")


@functools.cache
def _librdkafka() -> ctypes.CDLL:
    package = Path(confluent_kafka.__file__).parent
    # Loading the very file that the Python client uses gives that library, not a second copy of it.
    beside_the_client = [
        *package.with_name("confluent_kafka.libs").glob("librdkafka*.so*"),
        *(package / ".dylibs").glob("librdkafka*.dylib"),
    ]
    where = str(beside_the_client[0]) if beside_the_client else ctypes.util.find_library("rdkafka")
    if where is None:
        raise BrokerError(f"No librdkafka beside {package} nor among the system's libraries.")
    library = ctypes.CDLL(where)
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise BrokerError(f"{where} has no {name}: confluent-kafka 2.12 or later is needed.") from None
        function.restype = result
        function.argtypes = arguments
    return library


def _new_client(library: ctypes.CDLL) -> int:
    """The librdkafka client that the mock cluster needs as its host; it connects to nothing."""
    reason = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    # Without this it notes on stderr that it has no bootstrap servers, which is as it should be here.
    library.rd_kafka_conf_set(configuration, b"log_level", _WARNINGS, reason, len(reason))
    client: int | None = library.rd_kafka_new(_PRODUCER, configuration, reason, len(reason))
    if client is None:
        raise BrokerError(f"librdkafka gave no client: {reason.value.decode()}.")
    return client


class _Forwarder:
    """Passes every connection on one loopback port to another: the mock cluster cannot choose its own."""

    def __init__(self, port: int, *, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server((LOOPBACK, port))
        self._listener.settimeout(0)
        self._sockets: set[socket.socket] = {self._listener}
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(self._listener, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"forward-{port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        self._loop.remove_reader(self._listener)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        # A connection that was cancelled before its first step had no chance to close its socket.
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        # Not awaited: a connection whose acceptance is cancelled halfway would belong to nobody.
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # The client has gone already.
        client.settimeout(0)
        self._sockets.add(client)
        connection = self._loop.create_task(self._forward(client))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, client: socket.socket) -> None:
        target = socket.socket()
        target.settimeout(0)
        try:
            await self._loop.sock_connect(target, (LOOPBACK, self._target_port))
            await asyncio.gather(self._copy(client, target), self._copy(target, client))
        except OSError:
            pass  # The broker is down: the client sees what it would see of a broker that hangs up.
        finally:
            target.close()
            client.close()
            self._sockets.discard(client)

    async def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._loop.sock_recv(source, _COPY_BUFFER_BYTES):
                await self._loop.sock_sendall(sink, chunk)
        # One side hung up: the other one is told, which also ends the copying in the opposite direction.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def _topics_and_partitions(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, int]]:
    topics = []
    for value in values:
        name, _, partitions = value.partition(":")
        if not name or not (partitions or "1").isdecimal() or int(partitions or "1") < 1:
            raise click.BadParameter(f"{value!r} is not NAME or NAME:PARTITIONS.")
        topics.append((name, int(partitions or "1")))
    return topics


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; 0 takes a free one.")
@click.option(
    "--topic",
    "topics",
    metavar="NAME[:PARTITIONS]",
    multiple=True,
    callback=_topics_and_partitions,
    help="A topic to create, with 1 partition unless the number follows. May be repeated.",
)
def main(port: int, topics: list[tuple[str, int]]) -> None:
    """Serve an in-memory Kafka broker on the loopback interface until SIGTERM or SIGINT.

    Writes one line with its address to standard output when it is ready.
    """
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread starts, so that a signal waits for sigwait instead of ending the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    try:
        broker = LoopbackBroker(port)
    except OSError as error:
        raise click.ClickException(f"Cannot listen on {LOOPBACK}:{port}: {error.strerror}.") from error
    with broker:
        for name, partitions in topics:
            try:
                broker.create_topic(name, partitions)
            except BrokerError as error:
                raise click.ClickException(str(error)) from error
        click.echo(f"Kafka broker ready on {broker.bootstrap_servers}")
        signal.sigwait(stop_signals)


if __name__ == "__main__":
    main()
