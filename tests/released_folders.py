"""Small checkpoint folders in the released layout, as users have them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sca.config import LanguageModelConfig
from sca.modeling import Sca
from tests.fixtures.make_parity_snapshot import released_layout, released_state
from tests.tiny_models import LLAMA, tiny_config, tiny_model, word_tokenizer

PHRASES = [
    "a red bicycle",
    "the man's hat",
    "two dogs on grass",
    "a bicycle lane",
    "grass",
    "a hat on a dog",
    "man on a hill",
]


def train_pieces(folder: Path) -> Path:
    """Put a `tokenizer.model` of 61 pieces, trained as LLaMA's are, into the folder, and no other tokenizer file."""
    from sentencepiece import SentencePieceTrainer

    text = folder / "phrases.txt"
    text.write_text("\n".join(PHRASES))
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=61, model_type="bpe",
        normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=False,
        character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    return folder


def write_released(folder: Path, model: Sca, *, dtype: torch.dtype = torch.float32) -> Path:
    """config.json and model.safetensors of a model, in the released layout; no tokenizer."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(released_layout(model.config)))
    state = {name: value.to(dtype).contiguous() for name, value in released_state(model).items()}
    save_file(state, folder / "model.safetensors")
    return folder


def write_words(folder: Path) -> Path:
    """The tokenizer of tiny models, as transformers has it."""
    word_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def write_llama(folder: Path, pieces: Path) -> Path:
    """A tiny LLaMA model beside the `tokenizer.model` of another folder, and no other tokenizer file."""
    from sca.checkpoints.released_tokenizer import read_pieces

    count = len(read_pieces(pieces))
    settings = {**LLAMA.settings, "vocab_size": count, "eos_token_id": 2}
    write_released(folder, tiny_model(tiny_config(LanguageModelConfig("llama", settings))))
    (folder / "tokenizer.model").write_bytes((pieces / "tokenizer.model").read_bytes())
    return folder
