"""Phrases: normalisation, category names as phrases, and when a weak detector's name may be believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from sca.data.naming import thing_named
from sca.parts import Registry, registry

# The small model's own tokenizer: byte-pair encoding of words, learnt from the phrases.

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(phrases: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding with a word-start mark; every text ends in `END_OF_TEXT` (id 0), which is also the padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(phrases, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)]
    )
    return tokenizer


def token_batch(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (N, L), right-padded; L is at most `max_tokens`, the end mark included."""
    rows = []
    for encoding in tokenizer.encode_batch(list(texts)):
        pieces: list[int] = encoding.ids
        rows.append(pieces if len(pieces) <= max_tokens else [*pieces[: max_tokens - 1], 0])
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values)
        mask[row, : len(values)] = 1
    return ids, mask


TOKENIZERS: Registry[Callable[[Iterable[str], int], Tokenizer]] = registry(
    "tokenizer", "tokenizers", {"byte-pairs": "sca.data.text:train_tokenizer"}
)
"""Parts are called with the phrases and the greatest size of the vocabulary. Id 0 ends a text, and every text ends in it."""


_UNCOUNTED = {"scissors", "skis", "broccoli"}

# What a caption may call a detected class. The weak detector is believed where a caption agrees.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        "man",
        "woman",
        "boy",
        "girl",
        "people",
        "child",
        "person",
        "men",
        "women",
        "kids",
        "children",
    ),
    "car": ("car", "cars", "vehicle", "truck", "suv", "jeep", "traffic"),
    "truck": ("truck", "trucks", "vehicle"),
    "bicycle": ("bicycle", "bike", "bikes", "bicycles", "biker", "bicyclist", "cyclist"),
    "motorcycle": (
        "motorcycle",
        "motorbike",
        "bike",
        "motorcycles",
        "biker",
        "scooter",
        "motocross",
        "moped",
    ),
    "bird": ("bird", "birds", "duck", "ducks", "swan", "seagull", "geese", "goose", "flamingo", "pigeons"),
    "sports ball": ("ball", "football", "basketball", "soccer", "tennis", "volleyball", "rugby"),
    "boat": ("boat", "boats", "canoe", "kayak", "raft", "ship", "sailboat"),
    "cup": ("cup", "mug", "glass", "drink", "beer", "coffee"),
    "couch": ("couch", "sofa"),
    "tv": ("tv", "television", "screen"),
    "cell phone": ("phone", "cellphone"),
    "dining table": ("table",),
    "potted plant": ("plant", "plants", "flowers", "pot"),
    "handbag": ("handbag", "purse", "bag"),
    "suitcase": ("suitcase", "luggage", "bag"),
    "airplane": ("airplane", "plane", "jet"),
    "skis": ("ski", "skis", "skier", "skiing"),
    "snowboard": ("snowboard", "snowboarder", "snowboarding"),
    "surfboard": ("surfboard", "surfer", "surfing", "board", "wave"),
    "skateboard": ("skateboard", "skateboarder", "skateboarding", "skating"),
    "kite": ("kite", "parachute", "parasail"),
    "baseball glove": ("glove", "mitt", "baseball", "catcher"),
    "baseball bat": ("bat", "baseball", "batter"),
    "tennis racket": ("racket", "racquet", "tennis"),
    "cow": ("cow", "cows", "bull", "cattle", "calf", "bulls"),
    "horse": ("horse", "horses", "pony"),
    "sheep": ("sheep", "lamb", "goat"),
}
# Street and house furniture that captions seldom mention: believed on a good score alone.
_UNMENTIONED = {
    "car",
    "truck",
    "bus",
    "bench",
    "chair",
    "umbrella",
    "traffic light",
    "potted plant",
    "bicycle",
}


_PEOPLE = (
    "kid",
    "baby",
    "lady",
    "guy",
    "player",
    "rider",
    "crowd",
    "group",
    "biker",
    "cyclist",
    "surfer",
    "skier",
)
# Classes with one name, which the weak detector finds wherever they are large.
_PLAIN = (
    "dog",
    "cat",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "train",
    "bus",
    "bench",
    "umbrella",
    "toilet",
    "bed",
    "clock",
)


@lru_cache(maxsize=4096)
def categories_of(noun: str) -> frozenset[str]:
    """Classes of the weak detector that a singular noun may mean; empty where it would not find such a thing."""
    names = {**_SYNONYMS, **{name: (name,) for name in _PLAIN}}
    names["person"] = (*names["person"], *_PEOPLE)
    return frozenset(category for category, words in names.items() if noun in map(thing_named, words))


def clean_phrase(text: str) -> str:
    """Lower case, no final punctuation, single spaces: the form that is trained on and scored."""
    return " ".join(text.lower().replace(".", " ").replace(",", " ").split())


def head_noun(phrase: str) -> str:
    """The last word of a phrase, which in short noun phrases is the head."""
    words = clean_phrase(phrase).split()
    return words[-1] if words else ""


def with_article(name: str) -> str:
    """A category name as a phrase: "orange" -> "an orange"."""
    if name in _UNCOUNTED:
        return name
    name = {"sports ball": "ball", "tv": "television", "cell phone": "cell phone"}.get(name, name)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def believable(category: str, score: float, captions: Iterable[str]) -> bool:
    """Whether a weak detection may serve as a caption: the picture's captions say so, or it is ordinary and sure."""
    if score >= 0.55 and category in _UNMENTIONED:
        return True
    words = set(" ".join(map(clean_phrase, captions)).split())
    return score >= 0.4 and bool(words & set(_SYNONYMS.get(category, (category,))))
