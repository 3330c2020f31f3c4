"""Checkpoints: four origins, strict keys, and errors that say what to do."""

from __future__ import annotations

import gzip
import json
import pickle
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from sca.checkpoints import load_released, load_sam_weights, load_shipped, save_shipped
from sca.checkpoints.released import to_our_names
from sca.checkpoints.released_tokenizer import load_released_tokenizer
from sca.checkpoints.strict_loading import build_without_weights
from sca.checkpoints.tensor_files import read_tensors
from sca.config import AutomaticSettings, ScaConfig
from sca.modeling import Sca
from sca.modeling.caption_judge import CaptionJudge
from sca.registry import load
from tests.fixtures.make_parity_snapshot import released_layout, released_state
from tests.tiny_models import GPT2, LLAMA, region_token_config, tiny_config, tiny_model, word_tokenizer

KEYS = Path(__file__).resolve().parents[3] / "shared" / "parity" / "keys"


def _write_released(
    directory: Path, model: Sca, state: dict[str, Tensor] | None = None, *, pickled: bool = False
) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(released_layout(model.config)))
    state = released_state(model) if state is None else state
    if pickled:
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(
            {name: value.contiguous() for name, value in state.items()}, directory / "model.safetensors"
        )
    return directory


def _assert_same(one: Sca, other: Sca, tolerance: float = 0.0) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"no official key lists at {KEYS}")
@pytest.mark.parametrize("name", ["vit_h-gpt2_large", "vit_h-open_llama_3b_v2"])
def test_every_key_of_the_released_models_has_its_place(name: str) -> None:
    released = json.loads((KEYS / f"{name}.json").read_text())
    config = ScaConfig.from_released(released["config"] | {"architectures": ["ScaMultitaskV2Model"]})
    model = build_without_weights(config)
    given = {key: torch.empty(shape, device="meta") for key, shape in released["keys"].items()}
    to_our_names(model, given, origin=name)
    assert sum(parameter.numel() for parameter in model.parameters()) == released["n_params"]
    trainable = model.released_trainable_parameters().values()
    assert sum(parameter.numel() for parameter in trainable) == released["n_trainable"]


def test_a_model_is_built_without_weights_and_other_threads_do_not_notice() -> None:
    beside: list[bool] = []

    class Watched(Sca):
        def __init__(self, config: ScaConfig) -> None:
            thread = threading.Thread(target=lambda: beside.append(nn.Linear(3, 5).weight.is_meta))
            thread.start()
            thread.join()
            super().__init__(config)

    model = build_without_weights(tiny_config(GPT2), Watched)
    assert beside == [False]
    sizes = [(parameter.numel(), parameter.is_meta) for parameter in model.parameters()]
    assert sum(size for size, is_meta in sizes if is_meta) > 0.9 * sum(size for size, _ in sizes)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("family", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_released_directory(tmp_path: Path, family: object, pickled: bool) -> None:
    model = tiny_model(tiny_config(family))  # type: ignore[arg-type]
    _assert_same(model, load_released(_write_released(tmp_path, model, pickled=pickled)))


def test_sharded_released_directory(tmp_path: Path) -> None:
    model = tiny_model()
    names = sorted(state := released_state(model))
    (tmp_path / "config.json").write_text(json.dumps(released_layout(model.config)))
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    _assert_same(model, load_released(tmp_path))


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    state = {name: value.half() for name, value in released_state(model).items()}
    loaded = load_released(_write_released(tmp_path, model, state))
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    _assert_same(model, loaded, tolerance=1e-3)


def test_what_old_and_new_writers_leave_out_or_add_is_tolerated(tmp_path: Path) -> None:
    llama, gpt2 = tiny_model(tiny_config(LLAMA)), tiny_model()
    state = released_state(llama)
    state["shared_image_embedding.positional_embedding"] = state.pop(
        "prompt_encoder.shared_embedding.positional_embedding"
    )
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    _assert_same(llama, load_released(_write_released(tmp_path / "llama", llama, state)))

    state = released_state(gpt2)
    del state["language_model.lm_head.weight"]
    state["language_model.transformer.h.0.attn.bias"] = torch.ones(1, 1, 48, 48)
    state["language_model.transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    loaded = load_released(_write_released(tmp_path / "gpt2", gpt2, state))
    _assert_same(gpt2, loaded)
    embedding = loaded.language_model.get_input_embeddings()
    assert loaded.language_model.get_output_embeddings().weight is embedding.weight


def test_wrong_tensors_are_listed(tmp_path: Path) -> None:
    model = tiny_model()
    state = released_state(model)
    del state["language_project.weight"]
    state["mask_decoder.surprise.weight"] = torch.ones(1)
    state["mask_decoder.caption_tokens.weight"] = torch.ones(12, 32)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_released(_write_released(tmp_path, model, state))
    message = str(caught.value)
    assert "1 missing: language_project.weight" in message
    assert "1 unexpected: mask_decoder.surprise.weight" in message
    assert "mixer.caption_tokens.weight (12, 32) instead of (3, 32)" in message


def test_untied_copies_of_a_tied_head_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    state = released_state(model)
    state["language_model.lm_head.weight"] += 1
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from"):
        load_released(_write_released(tmp_path, model, state))


@pytest.mark.parametrize("architectures", [None, [], ["ScaModel"], ["ScaMultitaskSplitMixerModel"]])
def test_other_variants_are_refused(tmp_path: Path, architectures: list[str] | None) -> None:
    model = tiny_model()
    layout = released_layout(model.config) | {"architectures": architectures}
    _write_released(tmp_path, model)
    (tmp_path / "config.json").write_text(json.dumps(layout))
    with pytest.raises(ValueError, match="expected \\['ScaMultitaskV2Model'\\]"):
        load_released(tmp_path)


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return open, (str(marker), "w")

    path = tmp_path / "evil.pth"
    torch.save({"weight": Exploit()}, path)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no zip", gzip.compress(b"x", mtime=0), b"version https://git-lfs"]
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_tensors(path)


def test_another_input_side(tmp_path: Path) -> None:
    model = tiny_model()
    directory = _write_released(tmp_path, model)
    larger = load_released(directory, image_size=192)
    assert larger.encode_image(torch.zeros(1, 3, 192, 192)).embedding.shape == (1, 32, 12, 12)
    same = load_released(directory, image_size=128)
    _assert_same(model, same)


def _hugging_face_sam() -> SamModel:
    torch.manual_seed(4)
    vision = SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=72,
        image_size=128,
        patch_size=16,
        window_size=3,
        global_attn_indexes=[1],
        output_channels=32,
        num_pos_feats=16,
    )
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16)
    decoder = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=40, num_attention_heads=4, iou_head_hidden_dim=24, num_hidden_layers=2
    )
    return SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).eval()


@torch.no_grad()
def test_hugging_face_sam_computes_the_same(tmp_path: Path) -> None:
    sam = _hugging_face_sam()
    for parameter in sam.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.15)
    sam.save_pretrained(tmp_path)
    model = tiny_model(seed=9)
    before = model.language_project.weight.clone()
    load_sam_weights(model, tmp_path)
    assert torch.equal(model.language_project.weight, before)

    pixels, boxes = torch.randn(1, 3, 128, 128), torch.tensor([[3.0, 9, 80, 70], [40.0, 40, 100, 90]])
    theirs = sam(pixel_values=pixels, input_boxes=boxes.unsqueeze(0), multimask_output=True)
    ours = model.decode_masks(model.encode_image(pixels), boxes=boxes)
    torch.testing.assert_close(ours.mask_logits, theirs.pred_masks[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.iou, theirs.iou_scores[0], rtol=1e-4, atol=1e-4)


def test_segment_anything_file(tmp_path: Path) -> None:
    source, target = tiny_model(seed=1), tiny_model(seed=2)
    parts = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    state = {name: value for name, value in source.state_dict().items() if name.startswith(parts)}
    path = tmp_path / "sam.pth"
    torch.save(state | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}, path)
    load_sam_weights(target, path)
    for name, value in target.state_dict().items():
        if name.startswith(parts):
            assert torch.equal(value, state[name]), name
    del state["mask_decoder.iou_token.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        load_sam_weights(target, path)


@pytest.mark.parametrize(
    "config", [tiny_config(), tiny_config(LLAMA), region_token_config()], ids=["gpt2", "llama", "regions"]
)
@pytest.mark.parametrize("asks_fits", [False, True])
def test_our_own_format(tmp_path: Path, config: ScaConfig, asks_fits: bool) -> None:
    model = tiny_model(config)
    settings = AutomaticSettings(points_per_side=9, pred_iou_thresh=0.3)
    judge = CaptionJudge(int(model.language_model.config.hidden_size), asks_fits=asks_fits)
    save_shipped(model, word_tokenizer(), tmp_path, settings, judge)
    stored = load_file(tmp_path / "model.safetensors")
    parameters = {name for name, _ in model.named_parameters()}
    assert {stored[name].dtype for name in parameters} == {torch.float16}
    shipped = load_shipped(tmp_path)
    _assert_same(model, shipped.model, tolerance=2e-3)
    assert shipped.model.config == config
    assert shipped.automatic == settings
    assert shipped.judge is not None
    assert shipped.judge.asks_fits == asks_fits
    for name, value in judge.state_dict().items():
        assert torch.equal(shipped.judge.state_dict()[name], value), name
    assert shipped.tokenizer.decode([4, 5], skip_special_tokens=True) == word_tokenizer().decode([4, 5])


def test_a_model_saved_without_its_judge_has_none(tmp_path: Path) -> None:
    model = tiny_model()
    save_shipped(
        model, word_tokenizer(), tmp_path, judge=CaptionJudge(model.language_model.config.hidden_size)
    )
    save_shipped(model, word_tokenizer(), tmp_path)
    assert load_shipped(tmp_path).judge is None
    assert not (tmp_path / "judge.safetensors").exists()


def test_a_damaged_shipped_model_is_refused(tmp_path: Path) -> None:
    save_shipped(tiny_model(), word_tokenizer(), tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_shipped(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_shipped(tiny_model(), word_tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99"):
        load(tmp_path)


def test_weights_that_overflow_fp16_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.language_project.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"language_project\.bias does not fit fp16"):
        save_shipped(model, word_tokenizer(), tmp_path)


def test_unknown_names_get_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'sca-gpt2-large-vg'"):
        load("sca-gpt2-larg-vg")
    with pytest.raises(ValueError, match="did you mean 'demo'"):
        load("dmeo")


def test_a_bare_sam_file_cannot_caption(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot caption"):
        load(path)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        load(tmp_path)


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match="use cpu, cuda or cuda:N"):
        load("demo", device="gpu")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    directory = _write_released(tmp_path, model := tiny_model())
    with pytest.raises(ValueError, match="has no tokenizer: copy the tokenizer files"):
        load_released_tokenizer(directory, model.config)


def test_bad_configuration_names_the_entry() -> None:
    values = tiny_config().to_dict()
    values["mixer"]["depht"] = 3
    values["image_size"] = "large"
    with pytest.raises(ValueError, match=r"mixer\.depht.*|image_size.*"):
        ScaConfig.from_dict(values)
    assert ScaConfig.from_dict(json.loads(json.dumps(tiny_config().to_dict()))) == tiny_config()
    with pytest.raises(ValueError, match="multiple of 16"):
        tiny_config(image_size=100)


@pytest.mark.promise("tokenizer-code")
def test_a_tokenizer_that_brings_code_is_refused_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, model = tmp_path / "theirs", tiny_model()
    directory.mkdir()
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_released_tokenizer(directory, model.config)
    assert not asked
    assert not (tmp_path / "ran").exists()
