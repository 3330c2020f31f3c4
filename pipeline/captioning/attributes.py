"""What a caption says of a region and its pixels do not bear out."""

from __future__ import annotations

from collections.abc import Collection

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


def _article(word: str) -> str:
    """The indefinite article before `word`: by its sound, which for these is not its letter."""
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "euro", "one")) else "a"
