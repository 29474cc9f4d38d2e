"""Where the catalogue keeps its documents: one SQLite file.

Here belong: tables, transactions, and the questions that tests ask without HTTP. What the documents look
like is decided in ``documents``; who may see them in ``app``.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from scicat_dagster.demo.catalogue.content.answers import JsonObject
from scicat_dagster.demo.catalogue.content.documents import (
    attached_to,
    new_instrument,
    new_proposal,
    new_sample,
)

_TABLES = """
CREATE TABLE IF NOT EXISTS datasets (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL, poison TEXT
);
CREATE TABLE IF NOT EXISTS origdatablocks (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, dataset TEXT NOT NULL,
    size INTEGER NOT NULL, files INTEGER NOT NULL, document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS origdatablocks_of_dataset ON origdatablocks (dataset);
CREATE TABLE IF NOT EXISTS attachments (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, dataset TEXT NOT NULL, document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attachments_of_dataset ON attachments (dataset);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS proposals (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS samples (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS instruments (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    unique_name TEXT NOT NULL UNIQUE, document TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (digest TEXT PRIMARY KEY, username TEXT NOT NULL, expires_at REAL NOT NULL);
"""
_CONTENT = ("datasets", "origdatablocks", "attachments", "jobs", "proposals", "samples", "instruments")
_BUSY_SECONDS = 30
_PORTION = 200
_SEEDED_BY = "admin"


class AlreadyStoredError(Exception):
    """A document with this id, or this unique name, is stored already."""


class Store:
    """The documents of one catalogue, in one SQLite file that survives the process.

    A change is committed before the method that makes it returns. All methods may be called from any
    thread, and several processes may have the same file open.

    Args:
        path: The file; it is created where it does not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            # With a write-ahead log this loses nothing when the process is killed, only when the machine is.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_TABLES)
        except sqlite3.Error:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def clear(self) -> None:
        """Forget every document; tokens stay valid."""
        with self._transaction() as connection:
            for table in _CONTENT:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 # The names are this module's.

    # Datasets

    def insert_dataset(self, document: JsonObject, poison: str | None = None) -> None:
        """Store a new dataset.

        Args:
            document: The dataset.
            poison: Why the real server would crash at it, if it would.

        Raises:
            AlreadyStoredError: The pid is taken.
        """
        with self._transaction() as connection:
            _insert(connection, "datasets", id=document["pid"], document=_text(document), poison=poison)

    def dataset(self, pid: str) -> JsonObject | None:
        """The dataset with this pid, or None."""
        return self._one("SELECT document FROM datasets WHERE id = ?", pid)

    def datasets(self) -> list[JsonObject]:
        """All datasets, oldest first."""
        return list(self.find("datasets", {}))

    def count_datasets(self) -> int:
        """How many datasets there are."""
        return self._count("SELECT count(*) FROM datasets")

    def poisoned(self) -> dict[str, str]:
        """The datasets of which the real server would have died: pid and reason."""
        return dict(self._rows("SELECT id, poison FROM datasets WHERE poison IS NOT NULL"))

    def change_dataset(
        self, pid: str, change: Callable[[JsonObject], JsonObject], poison: str | None = None
    ) -> JsonObject | None:
        """Replace a dataset by what ``change`` makes of it, with no other change in between.

        Args:
            pid: Which dataset.
            change: From the stored document to the new one; what it raises leaves the dataset as it was.
            poison: Why the real server would crash at the change; an earlier reason stays.

        Returns:
            The new document, or None where there is no such dataset.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT document FROM datasets WHERE id = ?", (pid,)).fetchone()
            if row is None:
                return None
            document = change(json.loads(row[0]))
            connection.execute(
                "UPDATE datasets SET document = ?, poison = coalesce(poison, ?) WHERE id = ?",
                (_text(document), poison, pid),
            )
            return document

    def delete_dataset(self, pid: str) -> JsonObject | None:
        """Remove a dataset with its blocks and attachments; the answer is what it was, or None."""
        with self._transaction() as connection:
            row = connection.execute("SELECT document FROM datasets WHERE id = ?", (pid,)).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM datasets WHERE id = ?", (pid,))
            connection.execute("DELETE FROM origdatablocks WHERE dataset = ?", (pid,))
            connection.execute("DELETE FROM attachments WHERE dataset = ?", (pid,))
            document: JsonObject = json.loads(row[0])
            return document

    def page_of_datasets(self, search: str, limit: int, skip: int) -> tuple[list[JsonObject], int]:
        """Datasets that hold a text anywhere, newest first, and how many there are in all."""
        pattern = _text(search)[1:-1].replace("!", "!!").replace("%", "!%").replace("_", "!_")
        condition = "WHERE document LIKE ? ESCAPE '!'"
        found = self._documents(
            f"SELECT document FROM datasets {condition} ORDER BY number DESC LIMIT ? OFFSET ?",  # noqa: S608
            f"%{pattern}%",
            limit,
            skip,
        )
        return found, self._count(f"SELECT count(*) FROM datasets {condition}", f"%{pattern}%")  # noqa: S608

    # What belongs to a dataset

    def insert_origdatablock(self, document: JsonObject) -> None:
        """Store a new block, and give its dataset the size and the number of files of all its blocks."""
        self._insert_block(document, _sum_up)

    def add_origdatablock(self, document: JsonObject) -> None:
        """Store a new block, and add its size and number of files to what its dataset has."""
        self._insert_block(document, _add_up)

    def _insert_block(self, document: JsonObject, update: "_UpdateSums") -> None:
        pid = document["datasetId"]
        with self._transaction() as connection:
            _insert(
                connection,
                "origdatablocks",
                id=document["_id"],
                dataset=pid,
                size=document["size"],
                files=len(document["dataFileList"]),
                document=_text(document),
            )
            update(connection, document, sign=1, instant=document["createdAt"], user=document["createdBy"])

    def delete_origdatablock(self, identifier: str, *, instant: str, user: str) -> JsonObject | None:
        """Remove a block, and sum up those that are left; the answer is what it was, or None."""
        return self._delete_block(identifier, _sum_up, instant, user)

    def take_origdatablock_off(self, identifier: str, *, instant: str, user: str) -> JsonObject | None:
        """Remove a block, and take off what it added to its dataset; the answer is what it was, or None."""
        return self._delete_block(identifier, _add_up, instant, user)

    def _delete_block(
        self, identifier: str, update: "_UpdateSums", instant: str, user: str
    ) -> JsonObject | None:
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT document FROM origdatablocks WHERE id = ?", (identifier,)
            ).fetchone()
            if row is None:
                return None
            document: JsonObject = json.loads(row[0])
            connection.execute("DELETE FROM origdatablocks WHERE id = ?", (identifier,))
            update(connection, document, sign=-1, instant=instant, user=user)
            return document

    def origdatablocks(self, pid: str) -> list[JsonObject]:
        """The blocks of a dataset, oldest first."""
        return self._documents("SELECT document FROM origdatablocks WHERE dataset = ? ORDER BY number", pid)

    def count_origdatablocks(self, pid: str | None = None) -> int:
        """How many blocks there are, of one dataset or of all."""
        if pid is None:
            return self._count("SELECT count(*) FROM origdatablocks")
        return self._count("SELECT count(*) FROM origdatablocks WHERE dataset = ?", pid)

    def insert_attachment(self, document: JsonObject) -> None:
        """Store a new attachment."""
        with self._transaction() as connection:
            _insert(
                connection,
                "attachments",
                id=document["_id"],
                dataset=attached_to(document),
                document=_text(document),
            )

    def attachment(self, identifier: str) -> JsonObject | None:
        """The attachment with this id, or None."""
        return self._one("SELECT document FROM attachments WHERE id = ?", identifier)

    def change_attachment(
        self, identifier: str, change: Callable[[JsonObject], JsonObject]
    ) -> JsonObject | None:
        """Replace an attachment by what ``change`` makes of it; the answer is the new one, or None."""
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT document FROM attachments WHERE id = ?", (identifier,)
            ).fetchone()
            if row is None:
                return None
            document = change(json.loads(row[0]))
            connection.execute(
                "UPDATE attachments SET document = ? WHERE id = ?", (_text(document), identifier)
            )
            return document

    def delete_attachment(self, identifier: str) -> None:
        """Remove an attachment, if there is one."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM attachments WHERE id = ?", (identifier,))

    def insert_job(self, document: JsonObject) -> None:
        """Store a new job."""
        with self._transaction() as connection:
            _insert(connection, "jobs", id=document["_id"], document=_text(document))

    def clear_jobs(self) -> None:
        """Forget every job."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM jobs")

    def jobs(self) -> list[JsonObject]:
        """All jobs, oldest first."""
        return list(self.find("jobs", {}))

    def attachments(self, pid: str) -> list[JsonObject]:
        """The attachments of a dataset, newest first."""
        return self._documents("SELECT document FROM attachments WHERE dataset = ? ORDER BY number DESC", pid)

    # Proposals, instruments, samples

    def insert_proposal(self, document: JsonObject) -> None:
        """Store a new proposal.

        Raises:
            AlreadyStoredError: The id is taken.
        """
        with self._transaction() as connection:
            _insert(connection, "proposals", id=document["_id"], document=_text(document))

    def insert_instrument(self, document: JsonObject) -> None:
        """Store a new instrument.

        Raises:
            AlreadyStoredError: The pid or the unique name is taken.
        """
        with self._transaction() as connection:
            _insert(
                connection,
                "instruments",
                id=document["_id"],
                unique_name=document["uniqueName"],
                document=_text(document),
            )

    def insert_sample(self, document: JsonObject) -> None:
        """Store a new sample.

        Raises:
            AlreadyStoredError: The id is taken.
        """
        with self._transaction() as connection:
            _insert(connection, "samples", id=document["_id"], document=_text(document))

    def proposal(self, identifier: str) -> JsonObject | None:
        """The proposal with this id, or None."""
        return self._one("SELECT document FROM proposals WHERE id = ?", identifier)

    def instrument(self, identifier: str) -> JsonObject | None:
        """The instrument with this pid, or None."""
        return self._one("SELECT document FROM instruments WHERE id = ?", identifier)

    def sample(self, identifier: str) -> JsonObject | None:
        """The sample with this id, or None."""
        return self._one("SELECT document FROM samples WHERE id = ?", identifier)

    def add_proposal(
        self,
        proposal_id: str,
        *,
        title: str,
        pi_firstname: str,
        pi_lastname: str,
        pi_email: str,
        owner_group: str,
        access_groups: tuple[str, ...] = (),
        **further: Any,
    ) -> JsonObject:
        """Seed a proposal.

        Args:
            proposal_id: Its id.
            title: Its title.
            pi_firstname: The principal investigator's first name.
            pi_lastname: The principal investigator's last name.
            pi_email: The principal investigator's address.
            owner_group: The group that may read and change it.
            access_groups: Further groups that may read it.
            further: Further fields by their names in the API.

        Raises:
            AlreadyStoredError: The id is taken.
        """
        body = {
            "proposalId": proposal_id,
            "title": title,
            "pi_firstname": pi_firstname,
            "pi_lastname": pi_lastname,
            "pi_email": pi_email,
            "firstname": pi_firstname,
            "lastname": pi_lastname,
            "email": pi_email,
            "ownerGroup": owner_group,
            "accessGroups": list(access_groups),
            **further,
        }
        document = new_proposal(body, _SEEDED_BY)
        self.insert_proposal(document)
        return document

    def add_instrument(
        self, name: str, *, unique_name: str | None = None, pid: str | None = None, **further: Any
    ) -> JsonObject:
        """Seed an instrument.

        Args:
            name: Its name.
            unique_name: Its unique name; the name itself where none is given.
            pid: Its pid; a new one where none is given.
            further: Further fields by their names in the API.

        Raises:
            AlreadyStoredError: The pid or the unique name is taken.
        """
        document = new_instrument(
            {"name": name, "uniqueName": unique_name or name, **further}, _SEEDED_BY, pid
        )
        self.insert_instrument(document)
        return document

    def add_sample(
        self,
        sample_id: str | None = None,
        *,
        owner_group: str,
        access_groups: tuple[str, ...] = (),
        **further: Any,
    ) -> JsonObject:
        """Seed a sample.

        Args:
            sample_id: Its id; a new one where none is given.
            owner_group: The group that may read and change it.
            access_groups: Further groups that may read it.
            further: Further fields by their names in the API.

        Raises:
            AlreadyStoredError: The id is taken.
        """
        body = {
            "sampleId": sample_id,
            "ownerGroup": owner_group,
            "accessGroups": list(access_groups),
            **further,
        }
        document = new_sample(body, _SEEDED_BY)
        self.insert_sample(document)
        return document

    # Lists

    def find(self, table: str, texts: Mapping[str, tuple[str, ...]]) -> Iterator[JsonObject]:
        """Documents of a table that may hold one of the texts at each of the paths, oldest first.

        This narrows down what has to be read and is not an exact answer: the caller still decides on each
        document.

        Args:
            table: One of the tables of documents.
            texts: For each dotted path the texts of which one is wanted.

        Raises:
            ValueError: There is no such table.
        """
        if table not in _CONTENT:
            raise ValueError(f"There is no table {table!r}.")
        conditions, values = _narrowing(texts)
        statement = f"SELECT number, document FROM {table} WHERE number > ?{conditions}"  # noqa: S608
        statement += f" ORDER BY number LIMIT {_PORTION}"
        last = 0
        while True:
            # Portions, so that a long list neither holds the lock nor fills the memory.
            rows = self._rows(statement, last, *values)
            for number, document in rows:
                last = number
                yield json.loads(document)
            if len(rows) < _PORTION:
                return

    # Tokens

    def add_token(self, digest: str, username: str, expires_at: float) -> None:
        """Keep a token, by its digest, until ``expires_at`` (seconds since 1970)."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO tokens (digest, username, expires_at) VALUES (?, ?, ?)",
                (digest, username, expires_at),
            )

    def token_owner(self, digest: str, at: float) -> str | None:
        """The username a token belongs to, or None for a token that is unknown or expired at that time."""
        rows = self._rows("SELECT username FROM tokens WHERE digest = ? AND expires_at > ?", digest, at)
        return rows[0][0] if rows else None

    def has_expired(self, digest: str, at: float) -> bool:
        """Whether a token is known and expired at that time."""
        return bool(self._rows("SELECT 1 FROM tokens WHERE digest = ? AND expires_at <= ?", digest, at))

    def expire_tokens(self) -> None:
        """Let every token that was ever given out expire now."""
        with self._transaction() as connection:
            connection.execute("UPDATE tokens SET expires_at = 0")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # The connection commits in the end, or takes everything back.
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _documents(self, statement: str, *values: object) -> list[JsonObject]:
        return [json.loads(document) for (document,) in self._rows(statement, *values)]

    def _one(self, statement: str, value: str) -> JsonObject | None:
        found = self._documents(statement, value)
        return found[0] if found else None

    def _count(self, statement: str, *values: object) -> int:
        return int(self._rows(statement, *values)[0][0])


def _insert(connection: sqlite3.Connection, table: str, **columns: object) -> None:
    names = ", ".join(columns)
    places = ", ".join("?" for _ in columns)
    try:
        statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 # Names of this module.
        connection.execute(statement, tuple(columns.values()))
    except sqlite3.IntegrityError as error:
        raise AlreadyStoredError(str(error)) from None


class _UpdateSums(Protocol):
    """Bring a dataset's size and number of files up to date after a block came (sign 1) or went (-1)."""

    def __call__(
        self, connection: sqlite3.Connection, block: JsonObject, *, sign: int, instant: str, user: str
    ) -> None: ...


def _sum_up(
    connection: sqlite3.Connection,
    block: JsonObject,
    *,
    sign: int,  # noqa: ARG001 - All blocks are counted anew.
    instant: str,
    user: str,
) -> None:
    pid = block["datasetId"]
    size, files = connection.execute(
        "SELECT coalesce(sum(size), 0), coalesce(sum(files), 0) FROM origdatablocks WHERE dataset = ?", (pid,)
    ).fetchone()
    _set_sums(connection, pid, size, files, instant, user)


def _add_up(connection: sqlite3.Connection, block: JsonObject, *, sign: int, instant: str, user: str) -> None:
    pid = block["datasetId"]
    size, files = connection.execute(
        "SELECT json_extract(document, '$.size'), json_extract(document, '$.numberOfFiles')"
        " FROM datasets WHERE id = ?",
        (pid,),
    ).fetchone()
    size, files = size + sign * block["size"], files + sign * len(block["dataFileList"])
    _set_sums(connection, pid, size, files, instant, user)


def _set_sums(
    connection: sqlite3.Connection, pid: str, size: float, files: int, instant: str, user: str
) -> None:
    connection.execute(
        "UPDATE datasets SET document = json_set(document, '$.size', ?, '$.numberOfFiles', ?,"
        " '$.updatedAt', ?, '$.updatedBy', ?) WHERE id = ?",
        (size, files, instant, user, pid),
    )


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _narrowing(texts: Mapping[str, tuple[str, ...]]) -> tuple[str, list[str]]:
    conditions = ""
    values: list[str] = []
    for path, wanted in texts.items():
        places = ", ".join("?" for _ in wanted)
        if path in ("pid", "_id"):
            conditions += f" AND id IN ({places})"
            values += wanted
        elif path == "datasetId":
            conditions += f" AND dataset IN ({places})"
            values += wanted
        elif '"' not in path and path.startswith("scientificMetadata.") and path.count(".") == 2:
            keys = [f'."{key}"' for key in path.split(".")]
            # A list anywhere on the way matches by its items, which only the exact decision can tell.
            conditions += (
                f" AND (json_extract(document, ?) IN ({places})"
                " OR json_type(document, ?) = 'array' OR json_type(document, ?) = 'array')"
            )
            full = "$" + "".join(keys)
            values += [full, *wanted, full, "$" + "".join(keys[:-1])]
    return conditions, values
