"""The mail itself: headers that thread, a plain text and an HTML part."""

from __future__ import annotations

import hashlib
import html
from email.header import Header
from email.headerregistry import Address
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import formataddr, formatdate, parseaddr

import msgspec

from penstock_services.notifier.channels.base import Delivery
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut, one_line

_SUBJECT = 200
_LINE = 76
_POLICY = compat32.clone(linesep="\r\n")  # the one that takes header values as they are
_CELL = "padding:4px 12px 4px 0;vertical-align:top"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A mail before it is written."""

    sender: str
    to: tuple[str, ...]
    recipient: str
    subject: str
    message_id: str
    reply_to: str | None
    references: tuple[str, ...]
    message: Message

    @property
    def sender_address(self) -> str:
        """The bare address it comes from."""
        return parseaddr(self.sender)[1]

    @property
    def recipient_address(self) -> str:
        """The bare address it goes to."""
        return parseaddr(self.recipient)[1]

    @property
    def reference(self) -> str:
        """What a later mail of the thread must know: Message-ID and subject."""
        return f"{self.message_id} {self.subject}"


def envelope(delivery: Delivery, *, sender: str, to: tuple[str, ...], recipient: str) -> Envelope:
    """Address a message.

    The Message-ID follows from the delivery's key. A mail about an alert that one has been about before
    replies to it, under the same subject: some readers thread by that. The episode stands in References,
    so that the thread holds even when the earlier mail was lost.
    """
    domain = parseaddr(sender)[1].rpartition("@")[2]
    episode = _message_id(delivery.episode, domain)
    previous, _, subject = (delivery.previous or "").partition(" ")
    if not previous and delivery.resolved:
        previous = episode
    bare = subject.removeprefix("Re: ")
    return Envelope(
        sender=sender,
        to=to,
        recipient=recipient,
        subject=f"Re: {bare}" if bare else cut(one_line(delivery.message.title), _SUBJECT),
        message_id=_message_id(delivery.key, domain),
        reply_to=previous or None,
        references=tuple(dict.fromkeys((episode, *([previous] if previous else [])))),
        message=delivery.message,
    )


def write(mail: Envelope) -> MIMEMultipart:
    """Write a mail.

    No text is given to a parser of headers: what an alert says goes into encoded words whole, where it cannot be
    taken for an encoded word of its own (RFC 2047), a line break or a header.
    """
    written = MIMEMultipart("alternative", policy=_POLICY)
    written["From"] = formataddr(parseaddr(mail.sender))
    written["To"] = ", ".join(formataddr(parseaddr(address)) for address in mail.to)
    written["Subject"] = Header(mail.subject, "utf-8", header_name="Subject", maxlinelen=_LINE).encode()
    written["Date"] = formatdate(localtime=False)
    written["Message-ID"] = mail.message_id
    written["References"] = " ".join(mail.references)
    if mail.reply_to:
        written["In-Reply-To"] = mail.reply_to
    written["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices, please
    written.attach(MIMEText(_text(mail.message), "plain", "utf-8"))
    written.attach(MIMEText(_html(mail.message), "html", "utf-8"))
    return written


def readable(mail: Envelope) -> str:
    """Return a mail with its main headers and both parts as texts."""
    headers = {"From": mail.sender, "To": ", ".join(mail.to), "Subject": mail.subject, "Message-ID": mail.message_id}
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    return f"{lines}\n\n{_text(mail.message)}\n\n{_html(mail.message)}"


def check_address(text: str) -> None:
    """Refuse what is no mail address, bare or with a name.

    Raises:
        ValueError: naming it.
    """
    bare = parseaddr(text)[1]
    try:
        Address(addr_spec=bare)
    except (ValueError, IndexError, LookupError):
        bare = ""
    if not bare.rpartition("@")[0] or not bare.isascii() or one_line(text) != text:
        raise ValueError(f"{text!r} is no mail address; expected one such as ops@example.com, in ASCII")


def _message_id(key: str, domain: str) -> str:
    return f"<{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}@{domain}>"


def _text(message: Message) -> str:
    lines = [message.title, "", message.text, ""]
    lines += [f"{fact.name}: {fact.value}" for fact in message.facts]
    for name, items in (("Labels", message.labels), ("Traces", message.traces)):
        if items:
            lines.append(f"{name}: {', '.join(items)}")
    if message.runbook:
        lines.append(f"Runbook: {message.runbook}")
    if message.notices:
        lines += ["", *message.notices]
    return "\n".join([*lines, "", "-- ", message.footer, ""])


def _html(message: Message) -> str:
    escape = html.escape
    rows = [(escape(fact.name), escape(fact.value)) for fact in message.facts]
    for name, items in (("Labels", message.labels), ("Traces", message.traces)):
        if items:
            rows.append((name, "<br>".join(f"<code>{escape(item)}</code>" for item in items)))
    if message.runbook:
        rows.append(("Runbook", f'<a href="{escape(message.runbook)}">{escape(message.runbook)}</a>'))
    table = "".join(
        f'<tr><td style="{_CELL};color:#667085">{name}</td><td style="{_CELL}">{value}</td></tr>'
        for name, value in rows
    )
    notices = "".join(f'<p style="color:#667085;margin:12px 0 0">{escape(notice)}</p>' for notice in message.notices)
    text = escape(message.text).replace("\n", "<br>")
    return (
        '<!doctype html><html><body style="margin:0;padding:16px;background:#f2f4f7">'
        '<div style="max-width:600px;margin:0 auto;padding:20px;background:#fff;border-radius:8px;'
        f"border-top:6px solid #{message.colour:06x};font:15px/1.5 -apple-system,'Segoe UI',Roboto,sans-serif;"
        'color:#101828">'
        f'<h2 style="margin:0 0 12px;font-size:19px">{escape(message.title)}</h2>'
        f'<p style="margin:0 0 16px">{text}</p>'
        f'<table style="border-collapse:collapse;font-size:14px">{table}</table>{notices}'
        f'<p style="margin:20px 0 0;font-size:12px;color:#98a2b3">{escape(message.footer)}</p>'
        "</div></body></html>\n"
    )
