"""What a caption says of a region and nothing bears out: colours that its pixels have not, who a person is where the model guesses."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

# Colour words that captions use, as the basic term that pixels are looked up by.
_TERM = {
    "black": "black",
    "white": "white",
    "gray": "gray",
    "grey": "gray",
    "silver": "gray",
    "red": "red",
    "orange": "orange",
    "yellow": "yellow",
    "green": "green",
    "blue": "blue",
    "purple": "purple",
    "pink": "pink",
    "brown": "brown",
    "tan": "brown",
}
_JOINS = ("and", ",")
# Words for people that tell sex or age, and what is left when they are not told.
_PERSON, _PEOPLE = "person", "people"
_ANYBODY = dict.fromkeys(("man", "woman", "boy", "girl", "lady", "guy"), _PERSON) | dict.fromkeys(
    ("men", "women", "boys", "girls", "ladies", "guys"), _PEOPLE
)
_AGES = ("young", "little", "small", "old", "older", "elderly")
# Less likely than this by the model's own word, which of them it is was a guess.
_GUESSED = 0.5
# Say which of a colour it is, and nothing without one.
_SHADES = ("light", "dark", "bright", "pale", "deep")


def without_false_colours(text: str, colours: Collection[str]) -> str:
    """`text` without the colour words that are not among `colours`, those that the region's pixels bear out.

    A language model that learnt from few pictures says the commonest colour where it does not know: the pixels do. "a red and
    white car" on a white one becomes "a white car". A colour that describes nothing ("the red") stays, and so does a text
    without colours, to the letter.
    """
    words = text.split()
    false = [_TERM.get(word.strip(",")) not in (None, *colours) for word in words]
    # Only what stands before a noun: the last word is one, or would leave nothing to describe.
    false[-1:] = [False]
    if not any(false):
        return text
    kept: list[str] = []
    gone = False
    for place, (word, wrong) in enumerate(zip(words, false, strict=True), start=1):
        if wrong:
            gone = True
            if kept and kept[-1] in _SHADES:
                kept.pop()
            if len(kept) > 1 and kept[-1] in _JOINS and kept[-2] in _TERM:
                kept.pop()  # it joined two colours, of which one is left
            continue
        if gone and place < len(words) and word in _JOINS and (not kept or kept[-1] not in _TERM):
            continue
        if gone and kept and kept[-1] in ("a", "an"):
            kept[-1] = _article(word)
        kept.append(word)
        gone = False
    return " ".join(kept)


def without_guessed_people(text: str, word_logprobs: Sequence[float], least: float = _GUESSED) -> str:
    """`text` with "person" where it names a man, woman, boy or girl and the model held that word for less likely than `least`.

    `word_logprobs`: of each word, natural logarithms; none where nobody knows, and then nothing changes. What was said of the
    age of such a one goes too: "a young girl" becomes "a person", "two men" become "two people".
    """
    words = text.split()
    if len(word_logprobs) != len(words):
        return text
    kept: list[str] = []
    for word, logprob in zip(words, word_logprobs, strict=True):
        anybody = _ANYBODY.get(word)
        if anybody is None or logprob >= math.log(least):
            kept.append(word)
            continue
        while kept and kept[-1] in _AGES:
            kept.pop()
        if kept and kept[-1] in ("a", "an"):
            kept[-1] = "a"
        kept.append(anybody)
    return " ".join(kept) if kept != words else text


def names_nothing(text: str) -> bool:
    """Whether a caption is colours alone ("red and black"): what has that colour was left out. "an orange" is a thing."""
    words = text.split()
    return bool(words) and all(word.strip(",") in _TERM or word in (*_JOINS, *_SHADES) for word in words)


def _article(word: str) -> str:
    """The indefinite article before `word`: by its sound, which for these is not its letter."""
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "euro", "one")) else "a"
