"""Addresses without their secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pipeline.sources.secrets import BLANK

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
