"""A word with an RTSP server before FFmpeg talks to it: where it sends us on to, and whether it takes our password.

FFmpeg follows every redirect at once, as often as it is told to, and hands user and password to whoever it leads to.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import (
    AbstractDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    Request,
    parse_http_list,
)
from urllib.request import parse_keqv_list as parse_pairs

from pipeline.core.redaction import redact_url
from pipeline.core.restarts import LossCause
from pipeline.sources.camera import ConnectionLost

_PORTS = {"rtsp": 554, "rtsps": 322}
_MOST_REDIRECTS = 4
_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str = ""
    challenges: tuple[str, ...] = field(default=())


class _NotUnderstood(Exception):
    """The server speaks some dialect: FFmpeg may know it."""


@contextmanager
def greeted(url: str, timeout_s: float) -> Iterator[str]:
    """The address that FFmpeg may open in place of `url`: the same, or where its host sends us on to.

    The server is kept talking for the length of the block: some would tear down what they have described, just as FFmpeg
    asks for it. Raises `ConnectionLost` when the user or password is refused (told once, not by FFmpeg again), when another host is
    named for what has a password, when one redirect leads to the next without end, and OSError when nobody answers.
    """
    with ExitStack() as talks:
        yield _where_to(url, timeout_s, talks)


def _where_to(url: str, timeout_s: float, talks: ExitStack) -> str:
    first = urlsplit(url)
    for _ in range(_MOST_REDIRECTS):
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            return url
        try:
            talk = _Talk(talks.enter_context(_connected(parts, timeout_s)), time.monotonic() + timeout_s)
            answer = _asked(talk, parts)
        except _NotUnderstood:
            return url
        if answer.status == 401 and answer.challenges:
            raise ConnectionLost(
                "the user name or password is refused",
                LossCause.REFUSED,
                "check them; they are not tried again, since cameras lock accounts",
            )
        if not 300 <= answer.status < 400 or not answer.location:
            return url
        url = _followed(first, answer.location)
    raise ConnectionLost(
        f"it sends us on and on, {_MOST_REDIRECTS} times by now and at last to {redact_url(url)}",
        LossCause.FAILED,
    )


def _followed(first: SplitResult, location: str) -> str:
    """Where a redirect leads to, with the login of `first` where that is for the same host."""
    try:
        there = urlsplit(location)
    except ValueError:
        there = SplitResult("", "", "", "", "")
    login = first.netloc.rpartition("@")[0]
    if there.scheme not in _PORTS or not there.hostname:
        raise ConnectionLost(
            f"it sends us on to {redact_url(location)}, which is no RTSP address", LossCause.FAILED
        )
    if not login:
        return there.geturl()
    opened = first.scheme == "rtsps" and there.scheme != "rtsps"
    if there.hostname != first.hostname or opened:
        shown = redact_url(there._replace(netloc=there.netloc.rpartition("@")[2]).geturl())
        raise ConnectionLost(
            f"it sends us on to {shown}, and a password goes to no host but the one it was given for"
            + (", nor unencrypted" if opened else ""),
            LossCause.FAILED,
            "if you trust that host, give its address",
        )
    return there._replace(netloc=f"{login}@{there.netloc.rpartition('@')[2]}").geturl()


def _asked(talk: _Talk, parts: SplitResult) -> _Answer:
    """The last answer to OPTIONS and DESCRIBE, with the password where it is asked for."""
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    answer, shown = _Answer(0), ""
    for method in ("OPTIONS", "DESCRIBE"):
        answer = talk.ask(method, address, shown)
        # Asked for a password, or for another answer, as a nonce may be good for one question.
        if answer.status == 401 and (not shown or talk.stale):
            shown = _credentials(parts, method, address, answer.challenges)
            if not shown:
                return answer
            answer = talk.ask(method, address, shown)
        if 300 <= answer.status < 402:
            return answer
        if shown.startswith("Digest"):
            shown = _credentials(parts, "DESCRIBE", address, talk.challenges)
    return answer


def _connected(parts: SplitResult, timeout_s: float) -> socket.socket:
    try:
        plain = socket.create_connection(
            (parts.hostname, parts.port or _PORTS[parts.scheme]), timeout=timeout_s
        )
    except ValueError:  # of a port, or of a name that cannot be one
        raise _NotUnderstood from None
    if parts.scheme != "rtsps":
        return plain
    # As FFmpeg does: cameras sign their own certificates.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=parts.hostname)


class _Talk:
    """Questions and answers over one connection. `challenges`: what the server has asked a password for with.

    `stale`: of the last answer, that the password was right and its nonce too old.
    """

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s
        self._read = b""
        self._number = 0
        self.challenges: tuple[str, ...] = ()
        self.stale = False

    def ask(self, method: str, address: str, credentials: str) -> _Answer:
        self._number += 1
        lines = [f"{method} {address} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: sca"]
        lines += ["Accept: application/sdp"] if method == "DESCRIBE" else []
        lines += [f"Authorization: {credentials}"] if credentials else []
        try:
            question = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        except UnicodeEncodeError:
            raise _NotUnderstood from None
        self._connection.settimeout(self._left_s())
        self._connection.sendall(question)
        head = self._until(b"\r\n\r\n").decode("latin-1").splitlines()
        words = head[0].split(maxsplit=2) if head else []
        if (
            len(words) < 2
            or not words[0].startswith("RTSP/")
            or not words[1].isdecimal()
            or len(words[1]) != 3
        ):
            raise _NotUnderstood
        fields = [line.partition(":") for line in head[1:]]
        named = [(name.strip().lower(), value.strip()) for name, _, value in fields]
        length = next((value for name, value in named if name == "content-length"), "0")
        if not length.isdecimal() or len(length) > 6:
            raise _NotUnderstood
        self._take(int(length))
        challenges = tuple(value for name, value in named if name == "www-authenticate")
        self.challenges = challenges or self.challenges
        self.stale = any("stale=true" in one.lower().replace('"', "") for one in challenges)
        location = next((value for name, value in named if name == "location"), "")
        return _Answer(int(words[1]), location, challenges)

    def _left_s(self) -> float:
        left = self._until_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _more(self) -> None:
        self._connection.settimeout(self._left_s())
        data = self._connection.recv(8192)
        if not data or len(self._read) > _MOST_BYTES:
            raise _NotUnderstood
        self._read += data

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        head, _, self._read = self._read.partition(end)
        return head

    def _take(self, size: int) -> None:
        if size > _MOST_BYTES:
            raise _NotUnderstood
        while len(self._read) < size:
            self._more()
        self._read = self._read[size:]


def _credentials(parts: SplitResult, method: str, address: str, challenges: tuple[str, ...]) -> str:
    """What answers one of the challenges; empty without a user. A password in the clear only where nothing else is offered."""
    login = parts.netloc.rpartition("@")[0]
    if not login:
        return ""
    user, _, password = (unquote(part) for part in login.partition(":"))
    offered = {scheme.lower(): rest for scheme, _, rest in (one.partition(" ") for one in challenges)}
    if "digest" in offered:
        passwords = HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, "http://camera/", user, password)
        request = Request("http://camera/", method=method)
        request.selector = address
        try:
            pairs = parse_pairs(parse_http_list(offered["digest"]))
            answer = AbstractDigestAuthHandler(passwords).get_authorization(request, pairs)
        except (ValueError, OSError):
            raise _NotUnderstood from None
        if answer is None:
            raise _NotUnderstood
        return f"Digest {answer}"
    if "basic" in offered:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    raise _NotUnderstood
