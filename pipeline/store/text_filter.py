"""Which texts of a dictionary are asked for: parts, words, phrases and patterns, whatever their case and composition."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.core.errors import UserError


def folded(text: str) -> str:
    """Text for comparison: case folded and composed (NFC), so that an e with an accent is one however it was typed."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


@dataclass(frozen=True, slots=True)
class TextFilter:
    """All that is given must hold. `contains`: part of the text. `words`: whole words, so that dog does not find hotdog.

    `phrases`: whole words in this order, with nothing but spaces and punctuation between them. `regex`: a pattern of Python's
    `re`, in any case, anywhere in the text. `without`: words or phrases that it must not have. `among`: the texts that may be.
    """

    contains: str | None = None
    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    regex: str | None = None
    without: tuple[str, ...] = ()
    among: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.regex is not None:
            try:
                re.compile(self.regex, re.IGNORECASE)
            except (re.error, RecursionError, OverflowError) as error:
                why = "it is nested too deeply" if isinstance(error, RecursionError) else error
                raise UserError(
                    f"the pattern {self.regex[:200]!r} cannot be read ({why}): write it as Python's re reads it"
                ) from None
        for text in (*self.words, *self.phrases, *self.without):
            if not re.search(r"\w", text):
                raise UserError(f"{text!r} holds no word: give at least one letter or digit")

    def __bool__(self) -> bool:
        return bool(
            self.contains
            or self.words
            or self.phrases
            or self.regex
            or self.without
            or self.among is not None
        )

    def matching(self, texts: SearchedTexts) -> np.ndarray:
        """Which texts match, (n,) bool."""
        hits = np.ones(len(texts), bool)
        if self.contains:
            hits &= texts.containing(folded(self.contains).replace("\n", " "))
        for words in (*self.words, *self.phrases):
            hits &= texts.having(_whole_words(words, texts.marked), from_word=True)
        for words in self.without:
            hits &= ~texts.having(_whole_words(words, texts.marked), from_word=True)
        if self.among is not None:
            hits &= np.array([texts[number] in self.among for number in range(len(texts))], bool)
        if self.regex is not None:
            pattern = re.compile(unicodedata.normalize("NFC", self.regex), re.IGNORECASE)
            for number in np.flatnonzero(hits).tolist():
                hits[number] = pattern.search(texts.composed(number)) is not None
        return hits


def _whole_words(text: str, marked: bool) -> str:
    """The pattern of words in a row. `marked`: in texts that may hold vowel signs, which are parts of words."""
    marks = _marks() if marked else ""
    inside = "" if text.isascii() else _marks()
    parts = [re.escape(part) for part in re.findall(rf"[\w{inside}]+", folded(text))]
    return rf"[^\w\n{marks}]+".join(parts) + rf"(?![\w{marks}])"


@cache
def _marks() -> str:
    """Combining marks and joiners as a part of a class of characters: to Python's re they belong to no word, so that words of Indian
    and other scripts would end at each vowel sign."""
    points = (c for c in range(0x300, 0x1_FFFF) if unicodedata.category(chr(c)).startswith("M"))
    return "".join(map(chr, points)) + "\u200c\u200d"


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_" or (not char.isascii() and char in _marks())


class SearchedTexts:
    """Texts that are searched together: one long string is gone through faster than many short ones.

    `ends`: (n,) where each ends in `data`, UTF-8. Raises ValueError (with it UnicodeDecodeError) where they are no texts.
    """

    def __init__(self, ends: np.ndarray, data: np.ndarray) -> None:
        ends = ends.astype(np.int64)
        if (np.diff(ends, prepend=0) < 0).any() or int(ends[-1:].sum()) > len(data):
            raise ValueError("its texts do not end where it tells")
        data = data[: int(ends[-1])] if len(ends) else data[:0]
        lines = _lines(ends, data)
        self._joined = folded(lines)
        kind, code = ("ascii", np.uint8) if self._joined.isascii() else ("utf-32-le", np.uint32)
        breaks = np.flatnonzero(np.frombuffer(self._joined.encode(kind), code) == ord("\n"))
        self._ends = np.append(breaks, len(self._joined)).astype(np.uint32)
        self._count = len(ends)
        # Most captions are what they are compared as: then one copy is enough.
        self._own: tuple[bytes, np.ndarray] | None = None
        if lines != self._joined or not lines.isascii() or (data == ord("\n")).any():
            self._own = (data.tobytes(), ends.astype(np.uint32))

    @property
    def marked(self) -> bool:
        """Whether the texts may hold characters that are no letters by themselves but parts of words."""
        return not self._joined.isascii()

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """About what this takes in memory."""
        own = 0 if self._own is None else len(self._own[0]) + 4 * len(self)
        return own + (1 if self._joined.isascii() else 4) * len(self._joined) + 4 * len(self) + 200

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(number)
        if self._own is None:
            return self._joined[int(self._ends[number - 1]) + 1 if number else 0 : int(self._ends[number])]
        raw, ends = self._own
        return raw[int(ends[number - 1]) if number else 0 : int(ends[number])].decode()

    def strings(self, numbers: np.ndarray) -> list[str]:
        """The texts of these numbers (n,)."""
        known: dict[int, str] = {}
        return [known[n] if n in known else known.setdefault(n, self[n]) for n in numbers.tolist()]

    def composed(self, number: int) -> str:
        """One text in its own case."""
        return unicodedata.normalize("NFC", self[number])

    def containing(self, part: str) -> np.ndarray:
        """Which texts have a part that holds no line break, (n,) bool."""
        places, at = [], self._joined.find(part)
        while at >= 0:
            places.append(at)
            at = self._joined.find(part, at + 1)
        return self._at(places)

    def _at(self, places: list[int]) -> np.ndarray:
        hits = np.zeros(len(self), bool)
        hits[np.searchsorted(self._ends, np.array(places, np.uint32), "left")] = True
        return hits

    def having(self, pattern: str, from_word: bool = False) -> np.ndarray:
        """Which texts a pattern that no line break can be part of is found in, (n,) bool.

        `from_word`: only where a word begins. Python's re finds what begins with letters much faster than what begins with a
        look behind, so that is looked at here.
        """
        places, text = [], self._joined
        search, at = re.compile(pattern).search, 0
        while match := search(text, at):
            start = match.start()
            at = start + 1
            if from_word and start and _in_word(text[start - 1]):
                continue
            places.append(start)
        return self._at(places)


def _lines(ends: np.ndarray, data: np.ndarray) -> str:
    """All texts, one a line; line breaks within them are spaces."""
    if not len(ends):
        return ""
    lines = np.full(len(data) + len(ends) - 1, ord("\n"), np.uint8)
    own = np.ones(len(lines), bool)
    own[ends[:-1] + np.arange(len(ends) - 1)] = False
    lines[own] = np.where(data == ord("\n"), ord(" "), data)
    return lines.tobytes().decode()
