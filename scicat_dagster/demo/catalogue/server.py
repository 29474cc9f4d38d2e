"""Running the stand-in: in a thread for tests, in the foreground for the demo.

Here belong: sockets, uvicorn and stopping. What is served is ``app``'s.
"""

import signal
import socket
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from scicat_dagster.demo.catalogue.accounts import Accounts, demo_accounts
from scicat_dagster.demo.catalogue.app import API_PREFIX, create_app
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.store import Store

LOOPBACK = "127.0.0.1"

_IDLE_SECONDS = 5
_STOP_SECONDS = 5
_START_SECONDS = 30


class CatalogueServer:
    """The stand-in in a thread of this process, as a context manager.

    Args:
        database: The SQLite file, opened on start and closed on stop; or a store, which stays open.
        accounts: Who can log in; the demo's accounts where none are given.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        app: An application to serve instead of the plain stand-in, such as one with a middleware around it.
        dialect: Which generation of SciCat the plain stand-in answers like.

    Raises:
        OSError: On start: the port is taken.
    """

    def __init__(
        self,
        database: Path | str | Store,
        accounts: Accounts | None = None,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        app: ASGIApp | None = None,
        dialect: Dialect = Dialect.V4X,
    ) -> None:
        self._database = database
        self._accounts = accounts or Accounts(demo_accounts())
        self._host = host
        self._port = port
        self._app = app
        self._dialect = dialect
        self._store: Store | None = None
        self._server: _AnnouncingServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def store(self) -> Store:
        """The documents, for seeding and for looking without HTTP.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._store is None:
            raise RuntimeError("The catalogue server is not running.")
        return self._store

    @property
    def accounts(self) -> Accounts:
        """Who can log in."""
        return self._accounts

    @property
    def port(self) -> int:
        """The port; after the first start it is the one that was taken, also for the next start."""
        return self._port

    @property
    def url(self) -> str:
        """Where the pages are, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    @property
    def api_root(self) -> str:
        """Where the API is, without a slash at the end."""
        return f"{self.url}{API_PREFIX}"

    @property
    def root(self) -> str:
        """Where all versions of the API are, without a slash at the end."""
        return self.api_root.removesuffix("/v3")

    def start(self) -> None:
        """Open the file, take the port, serve.

        Raises:
            OSError: The port is taken.
            RuntimeError: The server runs already, or did not start.
        """
        if self._thread is not None:
            raise RuntimeError("The catalogue server runs already.")
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._store = self._database if isinstance(self._database, Store) else Store(self._database)
        app = self._app or create_app(self._store, self._accounts, self._dialect)
        self._server = _AnnouncingServer(_config(app))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="catalogue", daemon=True
        )
        self._thread.start()
        if not self._server.serving.wait(_START_SECONDS):
            self.stop()
            raise RuntimeError("The catalogue server did not start.")

    def stop(self) -> None:
        """Answer what is under way, close every connection and the file; stopping twice does no harm.

        Raises:
            RuntimeError: The server did not stop in time.
        """
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_START_SECONDS)
            if self._thread.is_alive():
                raise RuntimeError("The catalogue server did not stop.")
        self._server = None
        self._thread = None
        if self._store is not None and self._store is not self._database:
            self._store.close()
        self._store = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(database: Path, *, host: str = LOOPBACK, port: int = 0, accounts: Accounts | None = None) -> None:
    """Serve in the foreground until SIGTERM or SIGINT; the first line of output is the address.

    Args:
        database: The SQLite file.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        accounts: Who can log in; the demo's accounts where none are given.

    Raises:
        OSError: The port is taken.
    """
    # Uvicorn stops on these signals and then sends them to the handlers it found: without these two the
    # process would end as if it had been killed, with the file still open.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _already_heeded)
    listener = _listen(host, port)
    with Store(database) as store:
        server = uvicorn.Server(_config(create_app(store, accounts or Accounts(demo_accounts()))))
        print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])


class _AnnouncingServer(uvicorn.Server):
    """Tells when it serves, so that nobody has to look again and again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def _listen(host: str, port: int) -> socket.socket:
    # Named in full: asyncio sends small answers at once only where it knows that the protocol is TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def _already_heeded(_: int, __: FrameType | None) -> None:
    pass
