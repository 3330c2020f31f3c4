"""The typed training configuration and its YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sca.config import ScaConfig
from sca.errors import UserError
from sca.setting_errors import explain_settings
from sca.yaml_files import YamlFault, read_yaml

# Longest text that a trained model reads: its prefix and a caption.
_POSITIONS = 64


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LanguageConfig(_Strict):
    """The small language model that is trained, and its tokenizer."""

    family: str = Field(
        default="gpt2", description="gpt2, another model type of transformers, or one of an installed package"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="further settings of the family's configuration"
    )
    tokenizer: str = Field(default="byte-pairs", description="our own, or one of an installed package")
    width: int = Field(default=256, description="channels of a token")
    layers: int = Field(default=3, description="transformer layers")
    heads: int = Field(default=4, description="attention heads of a layer")
    vocab_size: int = Field(default=3500, description="pieces at most: the tokenizer may learn fewer")
    max_tokens: int = Field(default=18, description="tokens of a training caption, without its end")
    dropout: float = Field(default=0.1, description="share of activations left out while it learns")


class LossConfig(_Strict):
    """Weights of the losses."""

    caption: float = Field(default=1.0, description="cross-entropy of the caption's tokens")
    words: float = Field(
        default=0.5, description="the auxiliary probe that names a caption's words from the region tokens"
    )
    label_smoothing: float = Field(
        default=0.1, description="share of certainty that the caption loss does not ask for"
    )
    focal: float = Field(default=20.0, description="focal loss of masks with an outline")
    dice: float = Field(default=1.0, description="dice loss of masks with an outline")
    projection: float = Field(
        default=1.0, description="masks from boxes alone: the mask fills its box along both sides"
    )
    pairwise: float = Field(
        default=1.0, description="masks from boxes alone: neighbours of one colour belong together"
    )
    iou: float = Field(default=1.0, description="error of the IoU that the decoder expects of its masks")
    drift: float = Field(
        default=5.0, description="of caption tokens from what they were, where masks alone are trained"
    )
    likelihood: float = Field(
        default=0.2, description="of the phrases, beside the score, where the objective is consensus"
    )
    head: float = Field(default=1.0, description="what a right head noun adds to the score of a consensus")


class StageConfig(_Strict):
    """One training stage; they follow each other, each from the weights of the one before."""

    name: str = Field(description="by which the log calls it")
    steps: int = Field(gt=0, description="steps of the optimizer")
    trains: Literal["all", "language", "masks", "proposals"] = Field(
        default="all",
        description="language: the language model, its prefix and the region reader alone, on features that are computed "
        "once; masks: all but the language model and the reader, while the caption tokens that these read are held to "
        "what they were; proposals: the head that proposes boxes alone, taught by people's boxes and by `detector`",
    )
    views: int = Field(
        default=2,
        ge=0,
        description="views of every image whose features are computed once, where language is trained; 0: new ones for "
        "every batch, which needs a GPU",
    )
    sentences: float = Field(
        default=0.0, ge=0, description="weight of whole-picture captions, where language is trained; 0: none"
    )
    detector_names: bool = Field(
        default=False,
        description="where language is trained: what `detector` calls the things that nobody described is learnt too",
    )
    objective: Literal["likelihood", "consensus"] = Field(
        default="likelihood",
        description="likelihood of the phrases, or consensus: the score of sampled captions against all phrases "
        "(`sca.training.caption_losses`)",
    )
    samples: int = Field(default=4, gt=1, description="captions sampled of a region for a consensus")
    size: int = Field(default=320, multiple_of=32, description="input side, pixels")
    images: int = Field(default=8, gt=0, description="pictures of a batch")
    regions: int = Field(default=6, gt=0, description="regions of each picture of a batch")
    backbone: Literal["frozen", "late", "full"] = Field(
        default="frozen",
        description="how much of the image encoder learns: nothing, what has strides 16 and 32, or all",
    )
    caption_backbone: Literal["frozen", "late", "full"] = Field(
        default="frozen",
        description="the same of the second backbone, which only captions read; unless it is frozen, captions are learnt "
        "with it where all is trained",
    )
    feature_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of that backbone's channels left out while it learns"
    )
    learning_rate: float = Field(default=6e-4, description="of what has no rate of its own below")
    backbone_learning_rate: float = Field(default=1e-4, description="of the image encoder's backbone")
    language_learning_rate: float | None = Field(
        default=None,
        description="of the language model, its prefix and the region reader; none: `learning_rate`. A small language "
        "model bears, and needs, several times as much",
    )
    final_rate: float = Field(default=0.02, description="share of each rate that is left at the last step")
    warmup_steps: int = Field(default=100, description="steps over which the rates rise from nothing")
    weight_decay: float = Field(default=0.02, description="of matrices, by AdamW")
    mask_every: int = Field(default=3, gt=1, description="every n-th step trains masks, the others captions")
    mask_regions: int = Field(default=4, description="regions of each picture in a step of masks")
    refined_masks: int = Field(default=8, description="masks of such a step that get a correcting click")
    caption_clicks: float = Field(
        default=0.25, description="share of caption steps whose prompts are clicks, the others being boxes"
    )
    mask_clicks: float = Field(default=0.5, description="the same share of steps of masks")
    box_jitter: float = Field(
        default=0.08, ge=0, description="noise of the corners of prompts, as a share of the sides"
    )
    zoom: tuple[float, float] = Field(
        default=(0.75, 1.6), description="least and greatest scale of the random view of a picture"
    )
    key_pool: int = Field(
        default=1,
        gt=0,
        description="caption steps attend to the image averaged over n x n cells: nearly the same, and much cheaper",
    )
    ema: float = Field(default=0.998, description="decay of the averaged weights, which are what is kept")


class TrainingConfig(_Strict):
    """Everything that decides what `sca train` produces from a data folder."""

    reader: str = Field(
        default="jsonl", description="how the data folder is read: our own, or one of an installed package"
    )
    seed: int = Field(default=0, description="of weights, batches and views")
    processes: int = Field(default=1, gt=0, description="processes that share every batch")
    loaders: int = Field(
        default=0,
        ge=0,
        description="processes that make batches ahead, for a GPU; 0: a thread of the trainer's own",
    )
    detector: str = Field(
        default="",
        description="folder of the packaged detector that teaches box proposals and names: dist/src/model_s of the npm package yolov5",
    )
    shares: dict[str, float] = Field(
        default_factory=dict,
        description="how often the pictures of a collection are shown, by its name, relative to once",
    )
    model: dict[str, Any] = Field(
        default_factory=dict, description="the model's own configuration, without its language model"
    )
    language: LanguageConfig = LanguageConfig()
    loss: LossConfig = LossConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    imagenet_weights: bool = Field(
        default=True,
        description="the backbone begins with ImageNet weights, where the train extra brings them",
    )
    checkpoint_every_s: float = Field(default=180.0, description="seconds between states to go on from")
    log_every: int = Field(default=20, description="steps between lines of the log")

    def model_config_for(self, vocab_size: int) -> ScaConfig:
        """The model's own configuration, with the language model and the first stage's input size filled in."""
        from sca.modeling.language_model import LanguageSize, language_family

        text = self.language
        size = LanguageSize(text.width, text.layers, text.heads, _POSITIONS, vocab_size, text.dropout)
        settings = {**language_family(text.family).small(size), **text.settings}
        values = {"image_size": self.stages[0].size} | self.model
        language = {"model_type": text.family, "settings": settings}
        return ScaConfig.from_dict(values | {"language_model": language})


def read_training_config(path: Path) -> TrainingConfig:
    """Read a YAML training configuration. UserError names the file, each wrong key and the nearest right one."""
    try:
        values = read_yaml(Path(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: name a training configuration such as configs/train/demo.yaml"
        ) from error
    except YamlFault as error:
        raise UserError(
            f"{path} is not valid YAML{error.place} ({error.reason}); compare it with configs/train/demo.yaml"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings, such as configs/train/demo.yaml")
    return parse_training_config(values, str(path))


def parse_training_config(values: dict[str, Any], origin: str) -> TrainingConfig:
    """`read_training_config` for values already read; `origin` names them in errors."""
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain_settings(error, TrainingConfig)}") from None
