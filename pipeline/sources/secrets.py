"""Passwords that are not written into an address: filled in from the environment or a file when it is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

BLANK = re.compile(r"\$\{(file:[^}]+|[A-Za-z_][A-Za-z0-9_]*)\}")


def fill_in(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """`uri` with `${NAME}` replaced by an environment variable and `${file:PATH}` by the first line of a file.

    Values are percent-encoded, so that a password may hold any character. Raises `ValueError` that names what is
    missing, never what was found.
    """
    return BLANK.sub(lambda blank: quote(_value(blank.group(1), environment), safe=""), uri)


def _value(name: str, environment: Mapping[str, str]) -> str:
    if not name.startswith("file:"):
        value = environment.get(name)
        if not value:
            raise ValueError(
                f"${{{name}}}: this environment variable is not set; set it where the program runs"
            )
        return value
    path = Path(name.removeprefix("file:")).expanduser()
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(
            f"${{{name}}}: cannot read this file ({reason}); check path and permissions"
        ) from None
    if not lines or not lines[0].strip():
        raise ValueError(f"${{{name}}}: this file is empty; write the password into its first line")
    return lines[0].strip()
