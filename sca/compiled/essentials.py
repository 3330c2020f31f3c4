"""What a model needs beside its compiled stages: its shape, a few small arrays and its tokenizer, in one file without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sca.config import AutomaticSettings, ScaConfig
from sca.errors import UserError
from sca.small_files import parsed_json

if TYPE_CHECKING:
    from sca.predictor import Predictor

_JUDGE = ("judge_weight", "judge_bias")
_ARRAYS = (
    "gaussian",
    "corners",
    "foreground",
    "no_point",
    "no_mask",
    "task",
    "project_weight",
    "project_bias",
)


@dataclass(frozen=True)
class CaptionLength:
    """What decoding has to know of a language model: ids that end a caption, tokens at most, and the shape of its cache."""

    ends: tuple[int, ...]
    most_tokens: int
    layers: int
    heads: int
    head_dim: int
    positions: int


@dataclass(frozen=True, eq=False)
class Essentials:
    """All of a model that is no compiled stage. Arrays are float32.

    `gaussian` (2, C / 2): frequencies of coordinates. `corners` (2, C), `foreground`, `no_point`, `no_mask` (C,): what prompts
    are told by. `task` (Nt, H): the tokens that ask for a caption; `project_weight` (H, C), `project_bias` (H,): to the
    language model. `judge_weight` (H + 1 or 2 H + 3,), `judge_bias` (1,): of the judge of captions, None if there is none.
    `tokenizer`: as JSON.
    """

    config: ScaConfig
    automatic: AutomaticSettings
    captions: CaptionLength
    tokenizer: str
    gaussian: np.ndarray
    corners: np.ndarray
    foreground: np.ndarray
    no_point: np.ndarray
    no_mask: np.ndarray
    task: np.ndarray
    project_weight: np.ndarray
    project_bias: np.ndarray
    judge_weight: np.ndarray | None = None
    judge_bias: np.ndarray | None = None

    def write(self, path: Path) -> None:
        """One safetensors file, in one step."""
        told = {
            "config": self.config.to_dict(),
            "automatic": self.automatic.to_dict(),
            "captions": asdict(self.captions),
            "tokenizer": self.tokenizer,
        }
        names = _ARRAYS if self.judge_weight is None else (*_ARRAYS, *_JUDGE)
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        temporary = path.with_name(f".{path.name}.writing")
        save_file(arrays, temporary, metadata={"essentials": json.dumps(told)})
        temporary.replace(path)

    @staticmethod
    def read(path: Path) -> Essentials:
        """What `write` has written. UserError for any other file."""
        try:
            with safe_open(path, framework="numpy") as file:
                told: dict[str, Any] = parsed_json((file.metadata() or {})["essentials"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            length = told["captions"]
            return Essentials(
                ScaConfig.from_dict(told["config"]),
                AutomaticSettings.from_dict(told["automatic"]),
                CaptionLength(**{**length, "ends": tuple(length["ends"])}),
                told["tokenizer"],
                **arrays,
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it, and it is made again") from error


def essentials_of(predictor: Predictor) -> Essentials | None:
    """Those of a loaded model; None if it cannot do without torch: no plain tokenizer, or no captions of the usual length."""
    # What has a model in its hands has torch already; who only reads the file must not import it.
    from tokenizers import Tokenizer

    from sca.decoding.reference import MAX_NEW_TOKENS, end_of_text_ids
    from sca.stages.language import cache_shape, fits

    model = predictor.model
    if not isinstance(predictor.tokenizer, Tokenizer) or not fits(model):
        return None

    def array(value: Any) -> np.ndarray:
        return np.asarray(value.detach().float().cpu().numpy(), np.float32)

    prompts, shape = model.prompt_encoder, cache_shape(model)
    points = [array(embedding.weight)[0] for embedding in prompts.point_embeddings]
    head = None if predictor.judge is None else predictor.judge.head
    return Essentials(
        config=model.config,
        automatic=predictor.automatic,
        captions=CaptionLength(
            tuple(end_of_text_ids(model.language_model)),
            MAX_NEW_TOKENS,
            shape.layers,
            shape.heads,
            shape.head_dim,
            shape.length,
        ),
        tokenizer=predictor.tokenizer.to_str(),
        gaussian=array(prompts.pe_layer.positional_encoding_gaussian_matrix),
        corners=np.stack(points[2:4]),
        foreground=points[1],
        no_point=array(prompts.not_a_point_embed.weight)[0],
        no_mask=array(prompts.no_mask_embed.weight)[0],
        task=array(model.caption_task()),
        project_weight=array(model.language_project.weight),
        project_bias=array(model.language_project.bias),
        judge_weight=None if head is None else array(head.weight)[0],
        judge_bias=None if head is None else array(head.bias),
    )
