"""Addresses without their secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pipeline.core.errors import UserError

_SECRET = re.compile(r"user|pass|pwd|token|key|secret|auth|sig|cred", re.IGNORECASE)


def without_credentials(uri: str) -> str:
    """`uri` without user and password, and without query parameters whose names sound secret."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(p for p in parts.query.split("&") if not _SECRET.search(p.partition("=")[0]))
    return urlunsplit((parts.scheme, host, parts.path, query, ""))


# Passwords that are not written into an address: filled in from the environment or a file when it is opened.

BLANK = re.compile(r"\$\{(file:[^}]+|[A-Za-z_][A-Za-z0-9_]*)\}")


def fill_in(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """`uri` with `${NAME}` replaced by an environment variable and `${file:PATH}` by the first line of a file.

    Values are percent-encoded, so that a password may hold any character. Raises `UserError` that names what is
    missing, never what was found.
    """
    return BLANK.sub(lambda blank: quote(_value(blank.group(1), environment), safe=""), uri)


def _value(name: str, environment: Mapping[str, str]) -> str:
    if not name.startswith("file:"):
        value = environment.get(name)
        if not value:
            raise UserError(
                f"${{{name}}}: this environment variable is not set; set it where the program runs"
            )
        return value
    path = Path(name.removeprefix("file:")).expanduser()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(
            f"${{{name}}}: cannot read this file ({reason}); check path and permissions"
        ) from None
    if not lines or not lines[0].strip():
        raise UserError(f"${{{name}}}: this file is empty; write the password into its first line")
    return lines[0].strip()


_SECRET_KEYS = re.compile(r"pass|pwd|token|secret|key|auth|user|login|sig", re.IGNORECASE)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")


def redact_url(uri: str) -> str:
    """`uri` without user name, password, blanks and secret-looking query values; a plain path comes back unchanged."""
    if "://" not in uri:
        return uri
    uri = BLANK.sub("***", uri)
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname or ""
    except ValueError:
        return uri.split("://", 1)[0] + "://***"
    if ":" in host:
        host = f"[{host}]"
    query = urlencode(
        [
            (k, "***" if _SECRET_KEYS.search(k) else v)
            for k, v in parse_qsl(parts.query, keep_blank_values=True)
        ],
        safe="*/:",
    )
    return urlunsplit((parts.scheme, host + port, parts.path, query, ""))


def redact_text(text: str) -> str:
    """`text` (a log line, an error message) with every address in it redacted."""
    return _URL.sub(lambda match: redact_url(match.group(0)), text)
