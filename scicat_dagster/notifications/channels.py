"""The channels of notifications: webhook, Slack and e-mail. No secret of theirs gets into an error."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Protocol

from pydantic import SecretStr

from scicat_dagster.config.models import EmailSettings, NotificationSettings
from scicat_dagster.errors import IngestionError, PermanentError, TransientError
from scicat_dagster.notifications.message import Digest
from scicat_dagster.notifications.posting import TIMEOUT_SECONDS, Destination

_LATER = "It is sent with the next message; look at the network and the server if it goes on."


class Channel(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str:
        """What it is called in ticks, and in what is stored of it."""

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
    destination = Destination(f"notifications.{name}", address, later=_LATER)
    destination.judge(destination.post(body))
