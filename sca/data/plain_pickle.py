"""Pickles that hold nothing but lists, dictionaries, texts and numbers, read without running anything that they name.

RefCOCO's expressions are given out as pickles, some written by Python 2.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

from sca.errors import MalformedFile, UserError
from sca.small_files import read_small

_LARGEST = 1 << 28  # RefCOCO's have 40 MB
# What can build a value of plain parts. Everything that imports, calls or refers to something outside is left out.
_ALLOWED = frozenset(
    [
        "PROTO",
        "FRAME",
        "STOP",
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "EMPTY_LIST",
        "APPEND",
        "APPENDS",
        "LIST",
        "EMPTY_TUPLE",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_DICT",
        "DICT",
        "SETITEM",
        "SETITEMS",
        "EMPTY_SET",
        "ADDITEMS",
        "FROZENSET",
        "GET",
        "BINGET",
        "LONG_BINGET",
        "PUT",
        "BINPUT",
        "LONG_BINPUT",
        "MEMOIZE",
    ]
)


class _Refusing(pickle.Unpickler):
    """Finds no classes and no functions, whatever a file names."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside itself")


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle of plain parts. UserError if it is absent; MalformedFile for anything else in it."""
    try:
        data = read_small(path, _LARGEST)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the folder that holds it") from error
    except ValueError as error:
        raise MalformedFile(f"{path} cannot be read ({error}): fetch it from its origin") from error
    try:
        strange = next(
            (code.name for code, _, _ in pickletools.genops(data) if code.name not in _ALLOWED), None
        )
        if strange is not None:
            raise pickle.UnpicklingError(f"it does more than hold values ({strange})")
        # Texts of Python 2 are bytes; RefCOCO's are UTF-8.
        return _Refusing(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except Exception as error:  # damaged pickles raise all kinds
        raise MalformedFile(
            f"{path} is no pickle of plain values ({str(error)[:120]}): fetch it from its origin"
        ) from error
