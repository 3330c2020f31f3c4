"""A file behind an http(s) address, read like one on disk: from any place, over broken connections."""

from __future__ import annotations

import copy
import http.client
import io
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pipeline.core.clock import to_ns
from pipeline.core.errors import SourceRefused
from pipeline.core.redaction import redact_text
from pipeline.core.restarts import backoff_s
from pipeline.sources.film_or_camera import ServerSays

log = logging.getLogger(__name__)

# Enough for the names by which playlists are known.
_HEAD_BYTES = 512
# So far ahead it is cheaper to read on than to ask again.
_NEAR_BYTES = 256 << 10
# Tries without a byte between them; their pauses grow to the longest one.
_TRIES = 10
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What a server said about a file. `mark`: its version, in words for If-Range; `modified_ns`: ns since 1970."""

    says: ServerSays
    mark: str | None
    modified_ns: int | None


class _OneTry(request.HTTPDigestAuthHandler):
    """Digest credentials are sent once: cameras lock accounts after a few wrong passwords."""

    def __init__(self, passwords: request.HTTPPasswordMgr) -> None:
        super().__init__(passwords)
        self.reset_retry_count()

    def reset_retry_count(self) -> None:
        self.retried = 5


class WebServer:
    """Asks one address for bytes. `url`: may hold `user:password@`, which is sent only to who asks for it there."""

    def __init__(self, url: str, *, timeout_s: float, check_certificate: bool = True) -> None:
        self._url, root, login = _without_login(url)
        passwords = request.HTTPPasswordMgrWithDefaultRealm()
        if login:
            user, _, password = login.partition(":")
            passwords.add_password(None, root, unquote(user), unquote(password))
        self._opener = request.OpenerDirector()
        # Only what leads to other web addresses: no server may send us to a file or elsewhere.
        for handler in (
            request.ProxyHandler(),
            request.UnknownHandler(),
            request.HTTPHandler(),
            request.HTTPSHandler(
                context=ssl.create_default_context() if check_certificate else _any_certificate()
            ),
            request.HTTPDefaultErrorHandler(),
            request.HTTPRedirectHandler(),
            request.HTTPErrorProcessor(),
            request.HTTPBasicAuthHandler(passwords),
            _OneTry(passwords),
        ):
            self._opener.add_handler(handler)
        self._timeout_s = timeout_s

    def elsewhere(self, url: str) -> WebServer:
        """The same for another address, which the password is sent to only if it lies on the same server."""
        other = copy.copy(self)
        other._url = _without_login(url)[0]
        return other

    def get(
        self, since: int = 0, mark: str | None = None, *, until: int | None = None
    ) -> http.client.HTTPResponse:
        """The answer for the bytes from `since` on, to `until` (included) or to the end. Raises `OSError` and `HTTPException`."""
        headers = {"Range": f"bytes={since}-{'' if until is None else until}", "User-Agent": "sca"}
        if mark is not None and since:
            headers["If-Range"] = mark
        answer: http.client.HTTPResponse = self._opener.open(
            request.Request(self._url, headers=headers), timeout=self._timeout_s
        )
        return answer

    def ask(self) -> WebAnswer:
        """What stands there, and its first bytes. Raises `OSError` and `HTTPException`."""
        with self.get() as answer:
            head = b""
            size = _size(answer)
            # Of an endless one no more than what has come: its next bytes may take their time.
            while len(head) < _HEAD_BYTES and (more := answer.read1(_HEAD_BYTES - len(head))):
                head += more
                if size is None and len(head) >= 16:
                    break
            tag = answer.headers.get("ETag")
            changed = answer.headers.get("Last-Modified")
            kind = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
            mark = changed if tag is None or tag.startswith("W/") else tag
            return WebAnswer(ServerSays(kind, size, head), mark, _moment_ns(changed))

    def text(self, most_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> bytes:
        """The beginning of what stands there, in so much time at most. Raises `OSError` and `HTTPException`."""
        until, text = clock() + seconds, b""
        with self.get() as answer:
            while len(text) < most_bytes and (more := answer.read1(most_bytes - len(text))):
                text += more
                if clock() > until:
                    raise TimeoutError
        return text


class WebFile(io.RawIOBase):
    """Bytes of an address by place; FFmpeg reads it. Where a connection breaks, the next one goes on at the same byte.

    A server that knows no ranges is read from its start for that, which is told once. `says_no_ranges`: so it was.
    Raises `SourceRefused` naming the address when the server is gone for good, or has another file there by now.
    """

    def __init__(
        self,
        server: WebServer,
        answer: WebAnswer,
        *,
        address: str,
        retry: bool = True,
        longest_pause_s: float = 30.0,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        assert answer.says.size is not None
        self.name = urlsplit(address).path.rpartition("/")[2]
        self._server = server
        self._address = address
        self._size = answer.says.size
        self._mark = answer.mark
        self._tries = _TRIES if retry else 0
        self._longest_pause_s = longest_pause_s
        self._stop = threading.Event()
        self._pause = pause or self._stop.wait
        self._answer: http.client.HTTPResponse | None = None
        self._answer_at = 0
        self._place = 0
        self.says_no_ranges = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._place
        size = left if size < 0 else min(size, left)
        failures = 0
        while size > 0:
            try:
                # What has come: what is lost with a connection need not come again.
                data = self._reach(self._place).read1(size)
                if not data:
                    raise ConnectionError("the connection was closed")
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                reason = why(error)
                if failures >= self._tries or not passes(error) or self._stop.is_set():
                    raise SourceRefused(
                        f"{self._address}: reading stopped at byte {self._place} of {self._size}: {reason}; check the "
                        "network and the server, and start again: it goes on there"
                    ) from None
                pause_s = backoff_s(failures, random.random(), self._longest_pause_s)
                failures += 1
                log.warning("%s: %s; next try in %.1f s", self._address, reason, pause_s)
                self._pause(pause_s)
                continue
            self._place += len(data)
            self._answer_at += len(data)
            return data
        return b""

    def close(self) -> None:
        self._stop.set()
        self._hang_up()
        super().close()

    def _reach(self, place: int) -> http.client.HTTPResponse:
        """An answer whose next byte is the one at `place`."""
        ahead = place - self._answer_at
        near = 0 <= ahead <= _NEAR_BYTES or (ahead >= 0 and self.says_no_ranges)
        if self._answer is None or not near:
            self._hang_up()
            self._answer = self._server.get(place, self._mark)
            self._answer_at = self._begins(self._answer, place)
        while self._answer_at < place:
            passed = self._answer.read(min(_NEAR_BYTES, place - self._answer_at))
            if not passed:
                raise ConnectionError("the connection was closed")
            self._answer_at += len(passed)
        return self._answer

    def _begins(self, answer: http.client.HTTPResponse, asked: int) -> int:
        """At which byte `answer` begins."""
        told = _RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
        begins = int(told[1]) if answer.status == 206 and told is not None else 0
        if begins > asked or _size(answer) not in (None, self._size):
            raise SourceRefused(
                f"{self._address}: the server has another film there than when it was opened; start again"
            )
        if asked and not begins and not self.says_no_ranges:
            self.says_no_ranges = True
            log.warning(
                "%s: the server cannot send a part of a film; it is read from its start again", self._address
            )
        return begins

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _without_login(url: str) -> tuple[str, str, str]:
    """The address as it is asked for, the root of its server, and the `user:password` that stood in it."""
    parts = urlsplit(url)
    login, _, place = parts.netloc.rpartition("@")
    safe = quote(parts.path, safe="/%:=&~+!$,;'@()*[]"), quote(parts.query, safe="/%:=&?~+!$,;'@()*[]")
    return urlunsplit((parts.scheme, place, *safe, "")), f"{parts.scheme}://{place}/", login


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _size(answer: http.client.HTTPResponse) -> int | None:
    """Bytes of the whole file, where the server tells; None too where it packs them."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return None
    told = _RANGE.fullmatch((answer.headers.get("Content-Range") or "").strip())
    text = told[2] if answer.status == 206 and told is not None else answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _moment_ns(text: str | None) -> int | None:
    try:
        return None if text is None else to_ns(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError):
        return None


def passes(error: Exception) -> bool:
    """Whether it may be over soon."""
    return error.code in _PASSING if isinstance(error, HTTPError) else True


def why(error: Exception) -> str:
    """In the user's words, without the address."""
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} ({redact_text(str(error.reason))})"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "nothing came in time"
    return redact_text(str(getattr(cause, "strerror", None) or cause))
