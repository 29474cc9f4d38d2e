"""Telling people what needs them: one message for everything that is new, by each channel that is configured.

Here are the message and its ways: a webhook, Slack, e-mail. Which files are news for which channel is kept by
``orchestration.digest``. The addresses of webhooks are secrets, and appear in no error and no log.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Protocol

import requests
from pydantic import BaseModel, ConfigDict, SecretStr

from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.settings import EmailSettings, NotificationSettings

MOST_LISTED = 20
"""Files in one message; the others are counted."""

MOST_REASONS = 10
TIMEOUT_SECONDS = 10.0

_LONGEST_TEXT = 300
_LATER = "It is sent with the next message; look at the network and the server if it goes on."
_OTHERS = "other reasons, and files whose reason was not looked up"


class FailedEntry(BaseModel):
    """A file that failed, as people are told about it."""

    model_config = ConfigDict(frozen=True)

    file: str
    since: datetime
    kind: str
    reason: str
    what_to_do: str
    runs: int


class ReasonCount(BaseModel):
    """How many files failed for a reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    files: int


class Condition(BaseModel):
    """Something that is not well with the facility as a whole, such as a server that is away."""

    model_config = ConfigDict(frozen=True)

    name: str
    what: str
    what_to_do: str


class Digest(BaseModel):
    """What one message says. Its length is bounded, however many files failed."""

    model_config = ConfigDict(frozen=True)

    facility: str
    """The name of this ingestor, for people who have several."""
    new: int
    """Files that failed and that were not told about yet."""
    still_failed: int
    """Files that were told about before and are not repaired."""
    repaired: int
    """Files that were told about before and are no longer failed."""
    reasons: tuple[ReasonCount, ...] = ()
    """Why the new ones failed, the most frequent reason first."""
    files: tuple[FailedEntry, ...] = ()
    """Some of the new ones."""
    conditions: tuple[Condition, ...] = ()
    """What is not well since the last message."""
    well_again: tuple[str, ...] = ()
    """The names of conditions that were told about before and are over."""
    rejected: int = 0
    """Announcements since the last message that led to no file, and gaps in what Kafka has."""

    @property
    def subject(self) -> str:
        """The whole message in a line."""
        name = " ".join(f"scicat_dagster {self.facility}".split())
        said = []
        if self.conditions:
            said.append(f"not well: {', '.join(condition.name for condition in self.conditions)}")
        if self.new:
            said.append(f"{_files(self.new)} failed")
        if self.rejected:
            said.append(f"{_messages(self.rejected)} led to no file")
        if self.well_again:
            said.append(f"well again: {', '.join(self.well_again)}")
        return f"[{name}] {'; '.join(said) or 'all failed files are repaired'}"

    def as_text(self) -> str:
        """The message for a person."""
        parts = [
            f"Not well: {condition.name}. {condition.what}\n  {condition.what_to_do}"
            for condition in self.conditions
        ]
        if self.well_again:
            parts.append(f"Well again: {', '.join(self.well_again)}.")
        if self.rejected:
            parts.append(
                f"{_messages(self.rejected)} led to no file; `scicat-dagster messages list` has the reasons."
            )
        if self.new or self.repaired or self.still_failed:
            parts.append(self._summary())
        if self.reasons:
            parts.append("\n".join(f"{count.files} × {count.reason}" for count in self.reasons))
        parts += [
            f"{entry.file}\n  since {entry.since.isoformat(timespec='seconds')}, {entry.kind}, "
            f"runs: {entry.runs}\n  {entry.reason}\n  {entry.what_to_do}"
            for entry in self.files
        ]
        if self.new > len(self.files):
            parts.append(f"… and {_files(self.new - len(self.files))} more.")
        if self.new or self.still_failed:
            parts.append("`scicat-dagster failures` lists all that are not repaired.")
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """The message for a program, with the text in it."""
        return {"subject": self.subject, "text": self.as_text(), **self.model_dump(mode="json")}

    def _summary(self) -> str:
        said = []
        if self.new:
            said.append(f"{_files(self.new)} failed.")
        if self.repaired:
            were = "was" if self.repaired == 1 else "were"
            said.append(f"{_files(self.repaired)} that failed before {were} repaired.")
        if self.still_failed:
            are = "is" if self.still_failed == 1 else "are"
            said.append(f"{_files(self.still_failed)} that failed before {are} not repaired.")
        elif not self.new:
            said.append("None is left.")
        return " ".join(said)


def digest(
    facility: str, new: Sequence[FailedEntry], *, more: int = 0, still_failed: int = 0, repaired: int = 0
) -> Digest:
    """The message about the files in ``new``, and ``more`` new ones whose reasons nobody looked up."""
    counts: dict[str, int] = {}
    for entry in new:
        reason = _common(entry)
        counts[reason] = counts.get(reason, 0) + 1
    frequent = sorted(counts.items(), key=lambda item: -item[1])
    reasons = [ReasonCount(reason=reason, files=number) for reason, number in frequent[:MOST_REASONS]]
    others = more + sum(number for _, number in frequent[MOST_REASONS:])
    if others:
        reasons.append(ReasonCount(reason=_OTHERS, files=others))
    return Digest(
        facility=facility,
        new=len(new) + more,
        still_failed=still_failed,
        repaired=repaired,
        reasons=tuple(reasons),
        files=tuple(
            entry.model_copy(
                update={
                    "file": _short(entry.file),
                    "reason": _short(entry.reason),
                    "what_to_do": _short(entry.what_to_do),
                }
            )
            for entry in new[:MOST_LISTED]
        ),
    )


def _common(entry: FailedEntry) -> str:
    """The reason without the file's name, so that files with the same reason are counted together."""
    return _short(entry.reason.replace(entry.file, "…"))


def _short(text: str) -> str:
    # A path may hold bytes that are no text.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


class Channel(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str:
        """What it is called in ticks, and in what is remembered of it."""

    def send(self, message: Digest) -> None:
        """Send the message.

        Raises
        ------
        TransientError
            The server is away.
        PermanentError
            The server refuses it, or its settings are no good.
        """


def channels(settings: NotificationSettings) -> list[Channel]:
    """The channels that are configured."""
    found: list[Channel] = []
    if settings.webhook.get_secret_value():
        found.append(Webhook(settings.webhook))
    if settings.slack_webhook.get_secret_value():
        found.append(Slack(settings.slack_webhook))
    if settings.email.host:
        found.append(Email(settings.email))
    return found


class Webhook:
    """A POST of the message as JSON."""

    name = "webhook"

    def __init__(self, address: SecretStr) -> None:
        self._address = address

    def send(self, message: Digest) -> None:
        """Send the message; raises as :meth:`Channel.send`."""
        _post(self._address, message.as_json(), self.name)


class Slack:
    """An incoming webhook of Slack, or of what understands its messages, such as Mattermost."""

    name = "slack_webhook"

    def __init__(self, address: SecretStr) -> None:
        self._address = address

    def send(self, message: Digest) -> None:
        """Send the message; raises as :meth:`Channel.send`."""
        text = f"{message.subject}\n\n{message.as_text()}"
        for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, written)
        _post(self._address, {"text": text}, self.name)


class Email:
    """An e-mail to all recipients. Where the server takes it for some of them, it counts as sent."""

    name = "email"

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings

    def send(self, message: Digest) -> None:
        """Send the message; raises as :meth:`Channel.send`."""
        settings = self._settings
        where = f"The mail server {settings.host}:{settings.port_number}"
        try:
            with _leaving(self._connected()) as server:
                if settings.security == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if settings.username:
                    server.login(settings.username, settings.password.get_secret_value())
                server.send_message(self._written(message))
        except ssl.SSLError as error:
            raise PermanentError(
                f"{where} cannot be talked to in private: {error.reason or type(error).__name__}.",
                remedy="Correct notifications.email.security and port, or install the certificate of its "
                "authority on this machine.",
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            raise _mail_failure(error, where) from None

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        place = (settings.host, settings.port_number)
        if settings.security == "tls":
            return smtplib.SMTP_SSL(*place, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context())
        return smtplib.SMTP(*place, timeout=TIMEOUT_SECONDS)

    def _written(self, message: Digest) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = message.subject
        mail["From"] = self._settings.sender
        mail["To"] = ", ".join(self._settings.recipients)
        mail["Date"] = formatdate()
        # Without a domain, this machine's name would be looked up in the network.
        domain = self._settings.sender.rpartition("@")[2].strip("<> ")
        mail["Message-ID"] = make_msgid(domain=domain)
        # So that nobody's holiday answers.
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.as_text())
        return mail


@contextmanager
def _leaving(server: smtplib.SMTP) -> Iterator[smtplib.SMTP]:
    """Say goodbye in the end. A server that does not answer to that has the message all the same."""
    try:
        yield server
    finally:
        with suppress(smtplib.SMTPException, OSError):
            server.quit()
        server.close()


def _mail_failure(error: smtplib.SMTPException | OSError, where: str) -> IngestionError:
    remedy = "Correct the section notifications.email."
    if isinstance(error, smtplib.SMTPAuthenticationError) and error.smtp_code >= 500:
        return PermanentError(f"{where} does not take our user name and password.", remedy=remedy)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return PermanentError(f"{where} cannot do what the configuration asks for: {error}", remedy=remedy)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
        if min(codes, default=0) >= 500:
            return PermanentError(f"{where} refuses all recipients ({codes[0]}).", remedy=remedy)
    elif isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 500:
        return PermanentError(f"{where} refuses the message ({error.smtp_code}).", remedy=remedy)
    elif type(error) is smtplib.SMTPException:
        return PermanentError(f"{where} knows no way to log in that we know.", remedy=remedy)
    kind = "did not answer in time" if isinstance(error, TimeoutError) else "cannot take it now"
    return TransientError(f"{where} {kind} ({type(error).__name__}).", remedy=_LATER)


def _post(address: SecretStr, body: dict[str, Any], name: str) -> None:
    key = f"notifications.{name}"
    url = address.get_secret_value()
    try:
        # A redirect would turn the POST into a GET, which many servers take for fine.
        with (
            _unlogged(),
            requests.post(
                url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as response,
        ):
            status = response.status_code
    except requests.RequestException as error:
        # Its own words hold the address.
        kind = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise TransientError(f"The server of {key} {kind} ({type(error).__name__}).", remedy=_LATER) from None
    if status >= 500 or status in {408, 425, 429}:
        raise TransientError(f"The server of {key} answered {status}.", remedy=_LATER)
    if status >= 300:
        remedy = f"See that {key} is right and still valid."
        raise PermanentError(f"The server of {key} answered {status}.", remedy=remedy)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep what this thread sends out of the HTTP library's log, whose details name each request's path."""
    ours = threading.get_ident()

    def is_anothers(record: logging.LogRecord) -> bool:
        return record.thread != ours

    log = logging.getLogger("urllib3.connectionpool")
    log.addFilter(is_anothers)
    try:
        yield
    finally:
        log.removeFilter(is_anothers)
