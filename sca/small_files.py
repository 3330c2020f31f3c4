"""Files that are read whole because they are small: what is none is refused before it is read, and never waited for."""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sca.errors import MalformedFile, UserError

_LONGEST_LINE = 16 << 20


def read_small(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file. Raises OSError, and ValueError for anything else and for more than `most_bytes`."""
    # Without waiting: a FIFO of that name might never be written to.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not a regular file")
        data = b"" if found.st_size > most_bytes else file.read(most_bytes + 1)
    if found.st_size > most_bytes or len(data) > most_bytes:
        raise ValueError(f"larger than {most_bytes >> 20} MiB")
    return data


def parsed_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError for all that is none, nesting that nobody could follow included."""
    try:
        return json.loads(text)
    except RecursionError:
        why = "nested too deeply"
    except ValueError as error:
        why = str(error)
    # Raised here, so that it holds on to nothing: an error may be kept for as long as its file is damaged.
    del text
    raise ValueError(why)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines in gzip. UserError where there is none, `MalformedFile` for anything else in it."""
    number = 0
    try:
        with gzip.open(path, "rb") as stream:
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise ValueError("longer than a line should be")
                row = parsed_json(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
                yield row
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the folder that holds {path.name}") from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise MalformedFile(
            f"{path}: line {number} cannot be read ({error}); fetch the file again"
        ) from error
