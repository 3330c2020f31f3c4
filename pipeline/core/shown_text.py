"""Text of others (captions, names, messages) as what it is read by may take it: it is shown, and never acts.

A model's tokens, a store from elsewhere, a file's name may hold escape sequences that move the cursor or set a terminal's
title, marks that reverse the order of what is read, and formulas.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

# How letters of several scripts and emoji are joined: invisible, and they change nothing else.
_JOINERS = "\u200c\u200d"
# Control and format characters (bidirectional marks among them), halves of pairs, and separators of lines.
_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# What spreadsheets take for a formula, or let stand before one; the wide forms too.
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def shown(text: str, *, lines: bool = False) -> str:
    r"""`text` with what would act on a terminal written out: `\x1b[2J`, `\u202e`. `lines`: line feeds stay."""
    return text if text.isprintable() else _without_acting(text, _as_escape, "\n" if lines else "")


def json_text(document: object) -> str:
    r"""`document` as one line of JSON whose values are exact; what would act on a terminal stands there as `\u202e`."""
    text = json.dumps(document, ensure_ascii=False)
    return text if text.isprintable() else _without_acting(text, _as_json)


def csv_cell(text: str) -> str:
    """`text` so that no spreadsheet computes it: a leading `=`, `+`, `-`, `@` or tab gets an apostrophe, and is text."""
    before = "'" if text.lstrip(" ").startswith(_FORMULA) else ""
    return before + shown(text, lines=True)


def _without_acting(text: str, written: Callable[[str], str], kept: str = "") -> str:
    return "".join(
        written(char)
        if unicodedata.category(char) in _ACTING and char not in _JOINERS and char not in kept
        else char
        for char in text
    )


def _as_escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _as_json(char: str) -> str:
    return json.dumps(char).strip('"') if char != "\x7f" else "\\u007f"
