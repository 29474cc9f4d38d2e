"""The message about failed files, and its ways to real servers of HTTP and mail."""

from __future__ import annotations

import email
import email.policy
import json
import logging
import queue
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from scicat_dagster.config.loading import ConfigurationError, load_configuration
from scicat_dagster.config.models import NotificationSettings
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.notifications.channels import Channel, channels
from scicat_dagster.notifications.message import (
    MOST_LISTED,
    Back,
    Condition,
    Digest,
    FailedEntry,
    digest,
)
from scicat_dagster.wording import local
from tests.brokers import free_ports

SECRET = "T0000-hook-nobody-may-see"
PASSWORD = "pa55word-nobody-may-see"
LONG = 30.0


class Hook:
    """A real HTTP server that keeps what is posted, and answers as it is told."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.refused: set[str] = set()
        """Bodies that hold one of these are answered with 422."""
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.authorizations: list[str | None] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if any(text.encode() in body for text in hook.refused):
                    self.send_error(422)
                    return
                hook.posted.append((self.path, json.loads(body)))
                hook.authorizations.append(self.headers.get("Authorization"))
                self.send_response(hook.status)
                if hook.status == 302:
                    self.send_header("Location", f"/elsewhere/{SECRET}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.close()


@dataclass
class Mailbox:
    """What a mail server took, and what it shall answer."""

    answer: str = "250 OK"
    refused: frozenset[str] = frozenset()
    taken: queue.Queue[Envelope] = field(default_factory=queue.Queue)

    async def handle_RCPT(  # noqa: N802 - the server calls it
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.taken.put(envelope)
        return self.answer


def authenticate(
    _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: object
) -> AuthResult:
    is_right = isinstance(given, LoginPassword) and given.password == PASSWORD.encode()
    return AuthResult(success=is_right, handled=False)


@dataclass
class MailServer:
    mailbox: Mailbox
    port: int

    def settings(self, **other: object) -> NotificationSettings:
        section = {
            "host": "127.0.0.1", "port": self.port, "security": "none", "sender": "dagster@example.org",
            "recipients": "ada@example.org, grace@example.org", **other,
        }  # fmt: skip
        return NotificationSettings.model_validate({"email": section})


@pytest.fixture
def mail() -> Iterator[MailServer]:
    mailbox = Mailbox()
    (port,) = free_ports(1)
    controller = Controller(
        mailbox, hostname="127.0.0.1", port=port, authenticator=authenticate, auth_require_tls=False
    )
    controller.start()
    yield MailServer(mailbox, port)
    controller.stop()


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def entry(number: int, reason: str = "{file}: it is broken.") -> FailedEntry:
    file = f"/data/{number}.hdf"
    return FailedEntry(
        file=file,
        since=NOON,
        kind="permanent",
        reason=reason.format(file=file),
        what_to_do="Mend it.",
        runs=1,
    )


MESSAGE = digest("odin", [entry(1), entry(2)], still_failed=3, repaired=1)


def the_channel(**settings: object) -> Channel:
    (channel,) = channels(NotificationSettings.model_validate(settings))
    return channel


def failure_of(channel: Channel, message: Digest = MESSAGE) -> IngestionError:
    with pytest.raises(IngestionError) as caught:
        channel.send(message)
    told = f"{caught.value!r} {caught.value.details} {''.join(traceback.format_exception(caught.value))}"
    assert SECRET not in told
    assert PASSWORD not in told
    return caught.value


def test_a_message_says_what_is_new_what_is_left_and_what_was_repaired() -> None:
    assert MESSAGE.subject == "[scicat_dagster odin] 2 files failed"
    assert MESSAGE.as_text() == (
        "2 files failed. 1 file that failed before was repaired. 3 files that failed before are not repaired."
        "\n\n2 × …: it is broken.\n\n"
        f"/data/1.hdf\n  since {local(NOON)}, permanent, runs: 1\n"
        "  /data/1.hdf: it is broken.\n  Mend it.\n\n"
        f"/data/2.hdf\n  since {local(NOON)}, permanent, runs: 1\n"
        "  /data/2.hdf: it is broken.\n  Mend it.\n\n"
        "`scicat-dagster failures` lists all that are not repaired."
    )


def test_what_went_away_is_said_with_its_time_and_that_nothing_is_lost() -> None:
    away = Condition(name="scicat", what="It cannot be reached.", what_to_do="Look at it.", since=NOON)
    message = Digest(facility="odin", new=0, still_failed=0, repaired=0, away=(away,), waiting=26)

    assert message.subject == "[scicat_dagster odin] SciCat is away"
    assert f"SciCat is away since {local(NOON)}. It cannot be reached." in message.as_text()
    assert "26 files wait; nothing is lost" in message.as_text()


def test_what_is_back_is_said_with_a_link_to_the_pages() -> None:
    message = Digest(
        facility="odin",
        new=0,
        still_failed=0,
        repaired=0,
        back=(Back(name="kafka", since=NOON, until=NOON + timedelta(hours=2)),),
        dagster_url="https://dagster.example.org",
    )

    assert message.subject == "[scicat_dagster odin] Kafka is back"
    assert f"away from {local(NOON)} to {local(NOON + timedelta(hours=2))}" in message.as_text()
    assert message.as_text().endswith("https://dagster.example.org/assets/today")


def test_a_failed_file_has_a_link_to_its_run() -> None:
    linked = entry(1).model_copy(update={"run_url": "https://dagster.example.org/runs/1"})

    assert "\n  https://dagster.example.org/runs/1" in digest("odin", [linked]).as_text()


def test_when_all_are_repaired_the_message_says_so() -> None:
    message = digest("", [], repaired=2)

    assert message.subject == "[scicat_dagster] all failed files are repaired"
    assert message.as_text() == "2 files that failed before were repaired. None is left."


def test_a_message_about_many_files_is_bounded_and_counts_them_all() -> None:
    reasons = [f"{{file}}: reason {number % 15}" for number in range(200)]
    entries = [entry(number, reason + "x" * 10_000) for number, reason in enumerate(reasons)]

    message = digest("odin\nBcc: eve@example.org", entries, more=800)

    assert message.new == 1000
    assert len(message.files) == MOST_LISTED
    assert sum(count.files for count in message.reasons) == 1000
    assert message.reasons[-1].reason.startswith("other reasons")
    assert "… and 980 files more." in message.as_text()
    assert len(message.as_text()) < 40_000
    assert "\n" not in message.subject


def test_nothing_is_configured_by_default() -> None:
    assert channels(NotificationSettings()) == []


def test_a_webhook_gets_the_message_as_json(hook: Hook) -> None:
    the_channel(webhook=hook.address).send(MESSAGE)

    ((path, body),) = hook.posted
    assert path == f"/services/{SECRET}"
    assert (body["facility"], body["new"], body["still_failed"], body["repaired"]) == ("odin", 2, 3, 1)
    assert body["reasons"] == [{"reason": "…: it is broken.", "files": 2}]
    assert body["files"][0] == {
        "file": "/data/1.hdf",
        "since": "2026-11-22T12:00:00Z",
        "kind": "permanent",
        "reason": "/data/1.hdf: it is broken.",
        "what_to_do": "Mend it.",
        "runs": 1,
        "run_url": "",
    }
    assert body["text"] == MESSAGE.as_text()


def test_slack_gets_a_text_that_it_does_not_take_for_markup(hook: Hook) -> None:
    the_channel(slack_webhook=hook.address).send(digest("odin", [entry(1, "<!channel> & more")]))

    ((_, body),) = hook.posted
    assert list(body) == ["text"]
    assert body["text"].startswith("[scicat_dagster odin] 1 file failed\n\n")
    assert "&lt;!channel&gt; &amp; more" in body["text"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, PermanentError),
        (400, PermanentError),
        (403, PermanentError),
        (404, PermanentError),
        (408, TransientError),
        (429, TransientError),
        (500, TransientError),
        (503, TransientError),
    ],
)
@pytest.mark.parametrize("key", ["webhook", "slack_webhook"])
def test_a_webhook_that_refuses_says_which_and_not_its_address(
    hook: Hook, status: int, kind: type[IngestionError], key: str
) -> None:
    hook.status = status

    error = failure_of(the_channel(**{key: hook.address}))

    assert type(error) is kind
    assert error.what == f"The server of notifications.{key} answered {status}."
    assert len(hook.posted) == 1


def test_a_webhook_that_is_away_is_a_transient_failure() -> None:
    error = failure_of(the_channel(webhook=f"http://127.0.0.1:1/{SECRET}"))

    assert isinstance(error, TransientError)
    assert "cannot be reached (ConnectionError)" in error.what


def test_no_log_holds_the_address(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    the_channel(webhook=hook.address).send(MESSAGE)
    hook.status = 500
    failure_of(the_channel(webhook=hook.address))
    failure_of(the_channel(webhook=f"http://127.0.0.1:1/{SECRET}"))

    assert SECRET not in caplog.text


def test_an_email_goes_to_all_recipients(mail: MailServer) -> None:
    (channel,) = channels(mail.settings())
    channel.send(digest("ödin", [entry(1, "Größe is 3 Å")]))

    envelope = mail.mailbox.taken.get(timeout=LONG)
    assert envelope.mail_from == "dagster@example.org"
    assert envelope.rcpt_tos == ["ada@example.org", "grace@example.org"]
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert message["Subject"] == "[scicat_dagster ödin] 1 file failed"
    assert message["To"] == "ada@example.org, grace@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@example.org>")
    body = message.get_body()
    assert body is not None
    assert "Größe is 3 Å" in body.get_content()


def test_a_login_is_used_where_it_is_configured(mail: MailServer) -> None:
    (channel,) = channels(mail.settings(username="dagster", password=PASSWORD))
    channel.send(MESSAGE)
    assert mail.mailbox.taken.get(timeout=LONG)

    (channel,) = channels(mail.settings(username="dagster", password=f"not {PASSWORD}"))
    error = failure_of(channel)
    assert isinstance(error, PermanentError)
    assert "does not take our user name and password" in error.what


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("451 try later", TransientError), ("552 too long", PermanentError)],
)
def test_a_mail_server_that_refuses_a_message_says_whether_it_may_take_it_later(
    mail: MailServer, answer: str, kind: type[IngestionError]
) -> None:
    mail.mailbox.answer = answer
    (channel,) = channels(mail.settings())

    assert type(failure_of(channel)) is kind


def test_one_recipient_who_is_refused_does_not_keep_the_others_from_being_told(mail: MailServer) -> None:
    (channel,) = channels(mail.settings())
    mail.mailbox.refused = frozenset({"ada@example.org"})
    channel.send(MESSAGE)
    assert mail.mailbox.taken.get(timeout=LONG).rcpt_tos == ["grace@example.org"]

    mail.mailbox.refused = frozenset({"ada@example.org", "grace@example.org"})
    error = failure_of(channel)
    assert isinstance(error, PermanentError)
    assert "refuses all recipients (550)" in error.what


def test_without_privacy_that_was_asked_for_nothing_is_sent(mail: MailServer) -> None:
    (channel,) = channels(mail.settings(security="starttls", username="dagster", password=PASSWORD))

    error = failure_of(channel)

    assert isinstance(error, PermanentError)
    assert "STARTTLS" in error.what
    assert mail.mailbox.taken.empty()


def test_a_mail_server_that_is_away_is_a_transient_failure() -> None:
    error = failure_of(next(iter(channels(MailServer(Mailbox(), 1).settings()))))

    assert isinstance(error, TransientError)
    assert "The mail server 127.0.0.1:1 cannot take it now" in error.what


def test_a_server_without_tls_cannot_be_talked_to_by_tls(mail: MailServer) -> None:
    (channel,) = channels(mail.settings(security="tls"))

    assert isinstance(failure_of(channel), PermanentError)


@pytest.mark.parametrize(
    ("security", "port"),
    [("starttls", 587), ("tls", 465), ("none", 25)],
)
def test_the_port_follows_from_the_kind_of_security(security: str, port: int) -> None:
    settings = NotificationSettings.model_validate({"email": {"security": security}})

    assert settings.email.port_number == port


@pytest.mark.parametrize(
    ("section", "mistake"),
    [
        ({"webhook": SECRET}, "notifications.webhook: must be an address that begins with https://"),
        ({"slack_webhook": f"ftp://{SECRET}"}, "notifications.slack_webhook: must be an address"),
        ({"webhook": f"https://host/{SECRET}\nX: y"}, "notifications.webhook: must be an address"),
        ({"every_minutes": 0}, "notifications.every_minutes: "),
        ({"email": {"host": "mail"}}, "notifications.email.sender: is missing"),
        ({"email": {"host": "mail", "sender": "a@b"}}, "notifications.email.recipients: is missing"),
        ({"email": {"sender": "Ada <a@b>"}}, "notifications.email.sender: must be an e-mail address"),
        ({"email": {"recipients": "a@b, c"}}, "notifications.email.recipients.1: must be an e-mail"),
        ({"email": {"username": "ada"}}, "notifications.email.password: is missing"),
        ({"email": {"password": f"{PASSWORD}é"}}, "notifications.email.password: holds characters"),
        ({"email": {"security": "ssl"}}, "notifications.email.security: "),
    ],
)
def test_a_mistake_in_the_section_is_named_without_its_secret(
    tmp_path: Path, section: dict[str, object], mistake: str
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump({"scicat": {"host": "https://scicat"}, "notifications": section}))

    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path, {})

    assert mistake in str(caught.value)
    assert SECRET not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_password_that_anybody_can_read_on_its_way_is_a_warning(tmp_path: Path) -> None:
    section = {
        "host": "mail", "security": "none", "username": "ada", "password": PASSWORD,
        "sender": "a@b", "recipients": "c@d",
    }  # fmt: skip
    path = tmp_path / "config.yml"
    document = {"scicat": {"host": "https://scicat"}, "notifications": {"email": section}}
    path.write_text(yaml.safe_dump(document))

    warnings = load_configuration(path, {}).warnings

    assert any(warning.startswith("notifications.email.security is none") for warning in warnings)
