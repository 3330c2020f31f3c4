"""Tokenizers of released checkpoints: those of transformers, and LLaMA's pieces read by sentencepiece itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sca.checkpoint_files import read_json
from sca.config import ScaConfig
from sca.errors import UserError

PIECES = "tokenizer.model"
# A language model's table of words is often filled up to a multiple of this; 271 is the largest gap seen (Qwen 2.5).
_FILLED_UP_TO, _LARGEST_GAP = 64, 512
_LARGEST_MODEL = 1 << 26


class SentencePieceTokenizer:
    """LLaMA's tokenizer from its `tokenizer.model`, id for id as it was trained with.

    transformers 5 converts that file, and its tokenizer gives other ids for texts that begin with two blanks.
    add_bos, add_eos: whether `encode` puts the beginning and the end of a text around it. UserError for a file that is
    none, and where sentencepiece is not installed.
    """

    def __init__(self, path: Path, *, add_bos: bool = True, add_eos: bool = False) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ModuleNotFoundError as error:
            raise UserError(
                f"{path} needs sentencepiece, which is not installed: pip install sentencepiece"
            ) from error
        if path.stat().st_size > _LARGEST_MODEL:
            raise UserError(f"{path} is too large for a tokenizer: fetch it again from its origin")
        self.path = path
        self.add_bos, self.add_eos = add_bos, add_eos
        try:
            self.pieces: Any = SentencePieceProcessor(model_proto=path.read_bytes())
        except (RuntimeError, OSError, TypeError) as error:
            raise UserError(f"{path} is no sentencepiece model: fetch it again from its origin") from error

    def __len__(self) -> int:
        return int(self.pieces.get_piece_size())

    @property
    def bos_token_id(self) -> int:
        return int(self.pieces.bos_id())

    @property
    def eos_token_id(self) -> int:
        return int(self.pieces.eos_id())

    def encode(self, text: str) -> list[int]:
        """A text's ids."""
        ids: list[int] = self.pieces.encode(text)
        begin = [self.bos_token_id] if self.add_bos and self.bos_token_id >= 0 else []
        end = [self.eos_token_id] if self.add_eos and self.eos_token_id >= 0 else []
        return [*begin, *ids, *end]

    def decode(self, ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        """The text of some ids. Ids of no piece say nothing."""
        known = [int(i) for i in ids if 0 <= i < len(self)]
        if skip_special_tokens:
            return str(self.pieces.decode([i for i in known if not self._is_special(i)]))
        marked = "".join(self.pieces.id_to_piece(i) for i in known)
        return marked.replace("\u2581", " ").strip()

    def _is_special(self, token: int) -> bool:
        return bool(self.pieces.is_control(token) or self.pieces.is_unknown(token))


ReleasedTokenizer = PreTrainedTokenizerBase | SentencePieceTokenizer


def load_released_tokenizer(directory: Path, config: ScaConfig, *, offline: bool = True) -> ReleasedTokenizer:
    """The tokenizer beside the weights, else that of the language model the config names.

    offline: look for the latter only in the local cache. UserError with the remedy if there is none, or if it has
    another vocabulary than the language model.
    """
    found = _beside(directory, config) or _of_language_model(config, offline=offline)
    if found is None:
        name = config.language_model.name or "its language model"
        raise UserError(
            f"{directory} has no tokenizer: copy the tokenizer files of {name} into that directory "
            "(tokenizer.json, tokenizer_config.json and, if there is one, tokenizer.model). One that brings code is not used"
        )
    _check_vocabulary(found, config, directory)
    return found


def _beside(directory: Path, config: ScaConfig) -> ReleasedTokenizer | None:
    pieces = directory / PIECES
    # A tokenizer.json beside LLaMA's own file was converted from it, and wrongly by some versions.
    if pieces.is_file() and config.language_model.model_type == "llama":
        return read_pieces(directory)
    return _by_transformers(str(directory), offline=True)


def read_pieces(directory: Path) -> SentencePieceTokenizer:
    """The tokenizer of a directory with a `tokenizer.model`."""
    settings: dict[str, Any] = {}
    if (directory / "tokenizer_config.json").is_file():
        settings = read_json(directory / "tokenizer_config.json")
    return SentencePieceTokenizer(
        directory / PIECES,
        add_bos=settings.get("add_bos_token") is not False,
        add_eos=settings.get("add_eos_token") is True,
    )


def _of_language_model(config: ScaConfig, *, offline: bool) -> ReleasedTokenizer | None:
    name = config.language_model.name
    if not name:
        return None
    if config.language_model.model_type == "llama":
        from huggingface_hub import hf_hub_download

        try:
            pieces = Path(hf_hub_download(name, PIECES, local_files_only=offline))
            for beside in ("tokenizer_config.json",):
                hf_hub_download(name, beside, local_files_only=offline)
            return read_pieces(pieces.parent)
        except UserError:
            raise
        except (OSError, ValueError):
            pass  # this one may have a tokenizer.json alone
    return _by_transformers(name, offline=offline)


def _by_transformers(source: str, *, offline: bool) -> PreTrainedTokenizerBase | None:
    try:
        # Said, not left out: otherwise it asks on the terminal whether to run the code that came with the files.
        with _quiet():
            found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                source, local_files_only=offline, trust_remote_code=False
            )
        return found
    except (OSError, ValueError, KeyError, TypeError, ImportError, json.JSONDecodeError):
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers tells of its attempts concerns nobody: what comes of them is told by us."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_vocabulary(tokenizer: ReleasedTokenizer, config: ScaConfig, directory: Path) -> None:
    from sca.modeling.language_model import transformers_config

    words, known = int(transformers_config(config.language_model).vocab_size), len(tokenizer)
    filled_up = words % _FILLED_UP_TO == 0 and 0 <= words - known < _LARGEST_GAP
    if words != known and not filled_up:
        name = config.language_model.name or "its language model"
        raise UserError(
            f"{directory}: the tokenizer has {known} words, the language model {words}: "
            f"put the tokenizer files of {name} there"
        )
