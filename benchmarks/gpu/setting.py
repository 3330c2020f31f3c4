"""What the GPU benchmarks share: options, random models of true shapes, rooflines, and the straightforward way."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor, nn

from benchmarks.side_by_side import describe_machine, time_in_turn
from engines.backends import backend_named
from engines.backends.interface import EngineBuildError
from engines.cache import EngineCache
from engines.cuda_graphs import GraphedEngine
from engines.devices import Precision, probe
from engines.typed_module import in_precision
from engines.workshop import BuildPolicy, Workshop
from sca.config import LanguageModelConfig, MixerConfig, ScaConfig, VitEncoderConfig
from sca.modeling import Sca, build
from sca.modeling.two_way import SharedImageTwoWayTransformer
from sca.stages.spec import Stage

SMALL_ENCODER = VitEncoderConfig(
    embed_dim=96, depth=3, num_heads=3, mlp_dim=384, window_size=7, global_attn_indexes=(2,)
)
SMALL_LANGUAGE = LanguageModelConfig("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512})


@dataclass(frozen=True)
class Setting:
    """Where and how large. `precision`: bfloat16 on a GPU, float32 on a CPU, for both sides."""

    device: str
    small: bool
    repeats: int
    backends: tuple[str, ...]

    @property
    def precision(self) -> Precision:
        return Precision.BFLOAT16 if self.device.startswith("cuda") else Precision.FLOAT32

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


def parse(
    doc: str, add: Callable[[argparse.ArgumentParser], object] | None = None
) -> tuple[Setting, argparse.Namespace]:
    """The options that all share, and those that `add` adds."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script on a CPU")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument(
        "--backends",
        nargs="*",
        default=["tensorrt", "torch-tensorrt", "inductor"],
        help="compilers to try beside eager in CUDA graphs; those that are not installed are named and left out",
    )
    if add is not None:
        add(parser)
    options = parser.parse_args()
    if options.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = False
    print(describe_machine(options.device), flush=True)
    repeats = min(options.repeats, 5) if options.small else options.repeats
    return Setting(options.device, options.small, repeats, tuple(options.backends)), options


@dataclass(frozen=True)
class Rooflines:
    """What this machine reaches at best in this run: FLOP/s of a large matrix product, bytes/s of a large copy."""

    flops: float
    bytes: float


def measure_rooflines(setting: Setting) -> Rooflines:
    """Measured, printed, and what every share below refers to."""
    dtype = setting.precision.dtype
    side = 512 if setting.small else 8192
    left, right = (torch.randn(side, side, device=setting.device, dtype=dtype) for _ in range(2))
    count = (1 << 22) if setting.small else (1 << 30)
    source = torch.ones(count, device=setting.device, dtype=torch.float32)
    target = torch.empty_like(source)
    times = time_in_turn(
        {"matmul": lambda: left @ right, "copy": lambda: target.copy_(source)},
        repeats=max(10, setting.repeats // 2),
        warm_up=3,
        device=setting.device,
    )
    found = Rooflines(2 * side**3 / times["matmul"].median, 2 * source.nbytes / times["copy"].median)
    print(
        f"rooflines: matmul {side}^3 {setting.precision} {found.flops / 1e12:.2f} TFLOP/s, "
        f"copy {found.bytes / 1e9:.0f} GB/s (read and written)",
        flush=True,
    )
    return found


def random_model(
    setting: Setting, encoder: str = "vit_h", language: LanguageModelConfig | None = None
) -> Sca:
    """A released architecture with random weights on the device, float32; tiny when the setting is small."""
    torch.manual_seed(0)
    config = ScaConfig(
        encoder=SMALL_ENCODER if setting.small else VitEncoderConfig.named(encoder),
        image_size=224 if setting.small else 1024,
        mixer=MixerConfig(depth=2 if setting.small else 12),
        language_model=SMALL_LANGUAGE if setting.small or language is None else language,
    )
    with torch.device(setting.device):  # half a billion random numbers take a host a minute
        return build(config).to(setting.device).eval()


def compiled(stage: Stage, setting: Setting, inputs: tuple[Tensor, ...]) -> dict[str, Callable[[], object]]:
    """The stage computed in every way that can be had here: eager (in a CUDA graph on a GPU), and each compiler."""
    device, precision = probe(setting.device), setting.precision
    eager = backend_named("eager").load(stage, precision, device, Path())
    found: dict[str, Callable[[], object]] = {}
    if setting.on_gpu:
        found[f"ours, eager {precision}, CUDA graph"] = partial(GraphedEngine(eager, stage), *inputs)
    else:
        found[f"ours, eager {precision}"] = partial(eager, *inputs)
    for name in setting.backends if setting.on_gpu else ("openvino",):
        compiler = backend_named(name)
        reason = compiler.unavailable(device) or compiler.cannot_build(device)
        if reason is None:
            # The folder stays until the process ends, because engines may map their files.
            cache = EngineCache(Path(tempfile.mkdtemp(prefix="engines-")))
            workshop = Workshop(cache, device, lambda line: None)
            try:
                manifest = workshop.build(stage, name, precision, policy=BuildPolicy.ALWAYS)
                engine = compiler.load(stage, precision, device, cache.folder(manifest.key))
                engine(*inputs)
            except EngineBuildError as error:
                reason = str(error)
            else:
                found[f"ours, {name} {precision}"] = partial(engine, *inputs)
        if reason is not None:
            print(f"  not measured: {name}: {reason}", flush=True)
    return found


class Straightforward:
    """The model as the released code computes it: the image repeated for every prompt, nothing compiled or fused."""

    def __init__(self, model: Sca, precision: Precision) -> None:
        self.model = model
        dtype = precision.dtype
        self.dtype = dtype
        self.decoder = in_precision_copy(model.mask_decoder, dtype)
        self.decoder.transformer = _plain(model.mask_decoder.transformer, dtype)
        self.mixer = in_precision_copy(model.mixer, dtype)
        self.mixer.transformer = _plain(model.mixer.transformer, dtype)
        self.image_pe = model.image_pe().to(dtype)

    def regions(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks, scores and caption tokens of P prompts on one image."""
        count, decoder = len(sparse), self.decoder
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(count, -1, -1), sparse.to(self.dtype)], dim=1)
        image = embedding.to(self.dtype).repeat_interleave(count, 0) + dense.to(self.dtype)
        places = self.image_pe.repeat_interleave(count, 0)
        tokens, image_tokens = decoder.transformer(image, places, tokens)
        features = image_tokens.transpose(1, 2).unflatten(2, embedding.shape[-2:])
        masks = decoder.predict_mask_logits(tokens, features, slice(1, None))
        queries = torch.cat([self.mixer.caption_tokens.weight.expand(count, -1, -1), tokens], dim=1)
        mixed, _ = self.mixer.transformer(features, places, queries)
        return masks, decoder.iou_prediction_head(tokens[:, 0]), mixed[:, : self.mixer.num_caption_tokens]


def in_precision_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the whole module in one dtype, as `module.to(dtype)` gives it."""
    import copy

    return copy.deepcopy(module).to(dtype)


def _plain(transformer: SharedImageTwoWayTransformer, dtype: torch.dtype) -> nn.Module:
    """segment_anything's own transformer with the same weights."""
    block = transformer.layers[0]
    plain = TwoWayTransformer(
        depth=transformer.depth,
        embedding_dim=transformer.embedding_dim,
        num_heads=transformer.num_heads,
        mlp_dim=transformer.mlp_dim,
        attention_downsample_rate=transformer.embedding_dim // block.cross_attn_token_to_image.internal_dim,
    )
    plain.load_state_dict(transformer.state_dict())
    return plain.to(next(transformer.parameters()).device, dtype).eval()


def typed_stage(stage: Stage, precision: Precision) -> Stage:
    """The stage with its body in this precision."""
    return in_precision(stage, precision)
