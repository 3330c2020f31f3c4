"""Captions of 64 regions, greedy: ours beside Hugging Face's `generate` on the same batch, in the same precision.

    python -m benchmarks.gpu.decoding [--language gpt2-large|open-llama-3b] [--regions 64] [--device cuda] [--small]

Random weights; a prefix of 14 vectors, then 19 tokens, never an end. The floor is one read of all weights per step at the copy
rate of this run.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from benchmarks.gpu.setting import Setting, measure_rooflines, parse
from benchmarks.side_by_side import print_row, time_in_turn
from sca.decoding.reference import MAX_NEW_TOKENS
from sca.decoding.slots import SlotDecoder

PREFIX = 14


def main() -> None:
    def add(parser):  # type: ignore[no-untyped-def]
        parser.add_argument("--language", default="gpt2-large", choices=["gpt2-large", "open-llama-3b"])
        parser.add_argument("--regions", type=int, default=64)

    setting, options = parse(__doc__ or "", add)
    roofline = measure_rooflines(setting)
    model = language_model(options.language, setting)
    count = 8 if setting.small else options.regions
    generator = torch.Generator().manual_seed(0)
    prefix = 0.1 * torch.randn(count, PREFIX, model.config.hidden_size, generator=generator)
    prefix = prefix.to(setting.device, setting.precision.dtype)
    slots = SlotDecoder(model, PREFIX, slots=count)
    with torch.inference_mode():
        expected, got = generate(model, prefix), slots.decode(prefix).token_ids
    same = float((expected == got).float().mean())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    floor = MAX_NEW_TOKENS * weights / (roofline.bytes / 2)  # a read alone is half of a copy
    print(
        f"{options.language}{' (small)' if setting.small else ''}: {count} regions, {weights / 1e9:.2f} GB of weights"
    )
    print(f"  same tokens: {same:.1%}; floor {floor * 1e3:.2f} ms")
    baseline = "generate, one batch"
    candidates = {
        baseline: lambda: generate(model, prefix),
        f"ours, slots{', CUDA graph' if setting.on_gpu else ''}": lambda: slots.decode(prefix),
    }
    times = time_in_turn(candidates, repeats=max(5, setting.repeats // 5), warm_up=2, device=setting.device)
    for name, taken in times.items():
        print_row(
            name,
            taken,
            times[baseline],
            f"{count / taken.median:.0f} regions/s, {taken.median / floor:.1f} x floor",
        )


def language_model(name: str, setting: Setting) -> PreTrainedModel:
    """A language model of this shape with random weights, without an end of text."""
    torch.manual_seed(0)
    common = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config: PreTrainedConfig
    if name == "gpt2-large":
        size = (
            {"n_embd": 64, "n_layer": 2, "n_head": 2}
            if setting.small
            else {"n_embd": 1280, "n_layer": 36, "n_head": 20}
        )
        config = GPT2Config(**size, **common)
    else:
        size = {
            "hidden_size": 3200,
            "intermediate_size": 8640,
            "num_hidden_layers": 26,
            "num_attention_heads": 32,
        }
        if setting.small:
            size = {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            }
        config = LlamaConfig(**size, vocab_size=32000, **common)
    with torch.device(setting.device):  # billions of random numbers take a host a minute
        model = AutoModelForCausalLM.from_config(config, dtype=setting.precision.dtype)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.to(setting.device).eval()


def generate(model: PreTrainedModel, prefix: Tensor) -> Tensor:
    """Hugging Face's batched greedy decoding, (P, 19)."""
    return model.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64, device=prefix.device),
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )


if __name__ == "__main__":
    main()
