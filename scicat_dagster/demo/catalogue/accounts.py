"""Who may do what: the functional accounts, their rights and their tokens.

Here belong: accounts, logging in, and turning an ``Authorization`` header into a caller. An unknown, forged
or expired token makes no error here: its bearer is anonymous, which is what the real server does too.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

_DEFAULT_LIFETIME = timedelta(hours=10)


@dataclass(frozen=True)
class Account:
    """A functional account and its rights.

    Attributes:
        username: The name to log in with; it becomes ``createdBy`` and ``updatedBy``.
        password: The password to log in with.
        groups: The groups it belongs to; they decide what it may read and change.
        may_create_datasets: May create datasets, blocks and samples of its own groups.
        may_create_any_group: May create datasets, and add blocks to datasets, of any group.
        may_read_all: May read what belongs to any group.
        may_administer: May create proposals and instruments, and change any dataset.
        may_delete: May delete datasets.
    """

    username: str
    password: str = field(repr=False)
    groups: tuple[str, ...] = ()
    may_create_datasets: bool = False
    may_create_any_group: bool = False
    may_read_all: bool = False
    may_administer: bool = False
    may_delete: bool = False

    @property
    def identifier(self) -> str:
        """The server's id of the account: stable, and shaped like a database id."""
        return hashlib.sha256(self.username.encode()).hexdigest()[:24]

    @property
    def email(self) -> str:
        """The address that goes with the account."""
        return f"scicat{self.username}@your.site"

    def may_read(self, document: Mapping[str, Any]) -> bool:
        """Whether the account may read a document that carries ``ownerGroup`` and ``accessGroups``."""
        groups = {document.get("ownerGroup"), *(document.get("accessGroups") or ())}
        shared = self.email in (document.get("sharedWith") or ())
        return (
            self.may_read_all
            or shared
            or bool(document.get("isPublished"))
            or not groups.isdisjoint(self.groups)
        )

    def owns(self, group: object) -> bool:
        """Whether the account is a member of the group."""
        return group in self.groups

    def described(self) -> dict[str, Any]:
        """The account the way the API shows a user."""
        return {
            "_id": self.identifier,
            "username": self.username,
            "email": self.email,
            "authStrategy": "local",
            "__v": 0,
            "id": self.identifier,
        }


class TokenStore(Protocol):
    """Where tokens are kept: a table that outlives the server."""

    def add_token(self, digest: str, username: str, expires_at: float) -> None:
        """Keep a token, by its digest, until ``expires_at`` (seconds since 1970)."""

    def token_owner(self, digest: str, at: float) -> str | None:
        """The username a token belongs to, or None for a token that is unknown or expired at that time."""

    def has_expired(self, digest: str, at: float) -> bool:
        """Whether a token is known and expired at that time."""


class Accounts:
    """The accounts of one server.

    Args:
        accounts: The accounts that can log in.
        token_lifetime: How long a token is valid.
    """

    def __init__(self, accounts: Iterable[Account], *, token_lifetime: timedelta = _DEFAULT_LIFETIME) -> None:
        self._accounts = {account.username: account for account in accounts}
        self.token_lifetime = token_lifetime

    def account(self, username: str) -> Account:
        """The account of that name.

        Raises:
            KeyError: There is none.
        """
        return self._accounts[username]

    def set_password(self, username: str, password: str) -> None:
        """Give an account another password."""
        self._accounts[username] = replace(self._accounts[username], password=password)

    def log_in(self, tokens: TokenStore, username: object, password: object) -> tuple[Account, str] | None:
        """Check a name and a password, and make a token.

        Returns:
            The account and its new token, or None where the name or the password is wrong.
        """
        if not isinstance(username, str) or not isinstance(password, str):
            return None
        account = self._accounts.get(username)
        if account is None or not secrets.compare_digest(account.password.encode(), password.encode()):
            return None
        return account, self._new_token(tokens, username)

    def exchange(self, tokens: TokenStore, id_token: object) -> tuple[Account, str] | None:
        """Make a token for who holds an :meth:`id_token`; None where it is not one."""
        for username, account in self._accounts.items():
            if isinstance(id_token, str) and secrets.compare_digest(
                self.id_token(username).encode(), id_token.encode("utf-8", "replace")
            ):
                return account, self._new_token(tokens, username)
        return None

    def id_token(self, username: str) -> str:
        """What the identity provider of this server would give an account."""
        account = self._accounts[username]
        return _digest(f"{account.username}\0{account.password}")

    def _new_token(self, tokens: TokenStore, username: str) -> str:
        token = secrets.token_urlsafe(32)
        tokens.add_token(_digest(token), username, time.time() + self.token_lifetime.total_seconds())
        return token

    def caller(self, tokens: TokenStore, authorization: str | None) -> Account | None:
        """Who sent a request with this ``Authorization`` header; None is an anonymous caller."""
        token = _bearer(authorization)
        username = tokens.token_owner(_digest(token), time.time()) if token else None
        return None if username is None else self._accounts.get(username)

    def has_expired(self, tokens: TokenStore, authorization: str | None) -> bool:
        """Whether a request with this ``Authorization`` header holds a token that has expired."""
        token = _bearer(authorization)
        return bool(token) and tokens.has_expired(_digest(token), time.time())


def recorded_accounts() -> tuple[Account, ...]:
    """The accounts of the backend that the exchanges were recorded with; each has the password ``pwd``."""
    return (
        Account(
            "admin", "pwd", ("admin",),
            may_create_datasets=True, may_create_any_group=True, may_read_all=True, may_administer=True,
        ),
        Account("ingestor", "pwd", ("ingestor",), may_create_datasets=True),
        Account("plainuser", "pwd", ("plainuser",)),
    )  # fmt: skip


def demo_accounts() -> tuple[Account, ...]:
    """The accounts of the demo facility: its ingestor creates, reads and corrects what any group owns.

    On a real server only the groups in ``ADMIN_GROUPS`` may do all three, as ``ingestor`` does by default.
    """
    admin, ingestor, plainuser = recorded_accounts()
    facility = Account(
        ingestor.username, ingestor.password, ingestor.groups,
        may_create_datasets=True, may_create_any_group=True, may_read_all=True, may_administer=True,
    )  # fmt: skip
    return admin, facility, plainuser


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> str:
    # A copy of the database gives nobody a token.
    return hashlib.sha256(token.encode()).hexdigest()
