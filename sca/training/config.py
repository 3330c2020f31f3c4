"""The typed training configuration and its YAML file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sca.config import ScaConfig
from sca.errors import UserError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LanguageConfig(_Strict):
    """The small GPT-2 and its tokenizer. `vocab_size` is an upper bound: the tokenizer may learn fewer pieces."""

    width: int = 256
    layers: int = 3
    heads: int = 4
    vocab_size: int = 3500
    max_tokens: int = 18
    dropout: float = 0.1


class LossConfig(_Strict):
    """Weights of the losses. `words`: the auxiliary word probe; `projection`, `pairwise`: masks from boxes alone.

    `drift`: of caption tokens from what they were, where masks alone are trained.
    Of a consensus stage: `likelihood` of the phrases beside the score, and `head`: what a right head noun adds to it.
    """

    caption: float = 1.0
    words: float = 0.5
    label_smoothing: float = 0.1
    focal: float = 20.0
    dice: float = 1.0
    projection: float = 1.0
    pairwise: float = 1.0
    iou: float = 1.0
    drift: float = 5.0
    likelihood: float = 0.2
    head: float = 1.0


class StageConfig(_Strict):
    """One stage of training.

    backbone: "frozen" (no gradient at all), "late" (strides 16 and 32 learn) or "full". size: input side in pixels,
    a multiple of 32. images, regions: batch of B pictures with M regions each. mask_every: every n-th step trains
    masks, with mask_regions in place of M; the others train captions. refined_masks: how many masks of such a step
    get a correcting click. caption_clicks, mask_clicks: share of steps whose prompts are clicks, the others being
    boxes. zoom: range of the random view's scale. key_pool: caption steps attend to the image averaged over
    n x n cells, which is nearly the same and much cheaper. language_learning_rate: of the language model and its
    prefix, learning_rate if it is not given; a small one bears (and needs) several times as much. trains: "language"
    freezes all but the language model, its prefix and the region reader, which then learn from features that are
    computed once, in `views` views of every image; a step takes images x regions of them. "masks" leaves the language
    model and the reader as they are, and holds the caption tokens that they read to what they were. sentences: weight of
    whole-picture captions among them, 0 for none. objective: "likelihood" of the phrases, or "consensus": the score of
    `samples` sampled ones (see `sca.training.consensus`). ema: decay of the averaged weights.
    """

    name: str
    steps: int = Field(gt=0)
    trains: Literal["all", "language", "masks"] = "all"
    views: int = Field(default=2, gt=0)
    sentences: float = Field(default=0.0, ge=0)
    objective: Literal["likelihood", "consensus"] = "likelihood"
    samples: int = Field(default=4, gt=1)
    size: int = Field(default=320, multiple_of=32)
    images: int = Field(default=8, gt=0)
    regions: int = Field(default=6, gt=0)
    backbone: Literal["frozen", "late", "full"] = "frozen"
    learning_rate: float = 6e-4
    backbone_learning_rate: float = 1e-4
    language_learning_rate: float | None = None
    final_rate: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.02
    mask_every: int = Field(default=3, gt=1)
    mask_regions: int = 4
    refined_masks: int = 8
    caption_clicks: float = 0.25
    mask_clicks: float = 0.5
    zoom: tuple[float, float] = (0.75, 1.6)
    key_pool: int = Field(default=1, gt=0)
    ema: float = 0.998


class TrainingConfig(_Strict):
    """Everything that decides what `sca train` produces from a data folder. `processes` share every batch."""

    seed: int = 0
    processes: int = Field(default=1, gt=0)
    model: dict[str, Any] = Field(default_factory=dict)
    language: LanguageConfig = LanguageConfig()
    loss: LossConfig = LossConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    imagenet_weights: bool = True
    checkpoint_every_s: float = 180.0
    log_every: int = 20

    def model_config_for(self, vocab_size: int) -> ScaConfig:
        """The model's own configuration, with the language model and the first stage's input size filled in."""
        text = self.language
        settings = {
            "vocab_size": vocab_size,
            "n_positions": 64,
            "n_embd": text.width,
            "n_layer": text.layers,
            "n_head": text.heads,
            "resid_pdrop": text.dropout,
            "embd_pdrop": text.dropout,
            "attn_pdrop": text.dropout,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
        }
        values = {"image_size": self.stages[0].size} | self.model
        return ScaConfig.from_dict(values | {"language_model": {"model_type": "gpt2", "settings": settings}})


def read_training_config(path: Path) -> TrainingConfig:
    """Read a YAML training configuration. UserError names the file, each wrong key and the nearest right one."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: name a training configuration such as configs/train/demo.yaml"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings, such as configs/train/demo.yaml")
    return parse_training_config(values, str(path))


def parse_training_config(values: dict[str, Any], origin: str) -> TrainingConfig:
    """`read_training_config` for values already read; `origin` names them in errors."""
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(item) for item in error.errors())
        raise UserError(f"{origin}: {problems}") from error


def _explain(item: Any) -> str:
    place = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{place}: {item['msg']}"
    close = difflib.get_close_matches(str(item["loc"][-1]), _fields_at(item["loc"][:-1]), n=1, cutoff=0.0)
    return f"unknown setting {place!r}" + (f": did you mean {close[0]!r}?" if close else "")


def _fields_at(path: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = TrainingConfig
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        inner = get_args(annotation)
        candidate = inner[0] if inner else annotation
        assert isinstance(candidate, type)
        assert issubclass(candidate, BaseModel)
        model = candidate
    return list(model.model_fields)
