"""Models built from a SAM and a language model, saved as the released ones are, trained and run as users of transformers do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.build_sam import _build_sam
from transformers import (  # fmt: skip
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import sca
from sca.checkpoints.released_layout import released_config, released_state
from sca.checkpoints.strict_loading import build_without_weights
from sca.config import MixerConfig, ScaConfig
from sca.modeling.language_model import embed_tokens
from tests.sca.test_checkpoints import KEYS, _hugging_face_sam
from tests.tiny_models import LLAMA, region_token_config, stir, tiny_model, word_tokenizer

BOXES = [[5.0, 4.0, 60.0, 40.0], [20.5, 10.0, 90.0, 55.0]]
MIXER = MixerConfig(depth=2, num_heads=4, mlp_dim=40, num_caption_tokens=3)


def image(height: int = 60, width: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=61, eos_token_id=60, bos_token_id=60))  # fmt: skip
    stir(model)
    model.save_pretrained(folder)
    word_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    model = _hugging_face_sam()
    stir(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def built(sam: Path, language_model: Path) -> sca.Sca:
    return sca.Sca.from_parts(sam=sam, language_model=language_model, mixer=MIXER, num_task_tokens=2)


def test_a_built_model_speaks_as_its_language_model(built: sca.Sca, language_model: Path) -> None:
    ids = torch.tensor([[3, 9, 27, 5]])
    theirs = AutoModelForCausalLM.from_pretrained(language_model)(ids).logits
    ours = built.language_model(inputs_embeds=embed_tokens(built.language_model, ids)).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert all(value.isfinite().all() and not value.is_meta for value in built.parameters())
    assert float(built.mixer.caption_tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert built.predictor().describe(image(), BOXES)[0].token_ids


def test_masks_are_those_of_segment_anything(tmp_path: Path, language_model: Path) -> None:
    torch.manual_seed(1)
    theirs = _build_sam(32, 2, 2, [1], None)
    stir(theirs, 0.05)
    torch.save(theirs.state_dict(), tmp_path / "sam.pth")
    ours = sca.Sca.from_parts(sam=tmp_path / "sam.pth", language_model=language_model)
    assert ours.config.encoder.num_heads == 2
    assert ours.config.encoder.window_size == 14
    assert ours.config.encoder.global_attn_indexes == (1,)
    predictor = SamPredictor(theirs)
    pixels = image(300, 400)
    predictor.set_image(pixels)
    box = np.array([30.0, 20.0, 300.0, 250.0])
    _, scores, logits = predictor.predict(box=box, multimask_output=True)
    own = ours.predictor()
    found = own.segment(own.encode(pixels), boxes=[box])
    torch.testing.assert_close(found.iou[0], torch.from_numpy(scores), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.low_res_logits[0], torch.from_numpy(logits), rtol=1e-4, atol=1e-4)


def test_a_saved_model_is_the_same_again(built: sca.Sca, tmp_path: Path) -> None:
    built.save_pretrained(tmp_path)
    again = sca.Sca.from_pretrained(tmp_path)
    assert again.config == built.config
    ours, theirs = built.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sca.load(tmp_path).describe(image(), BOXES) == built.predictor().describe(image(), BOXES)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["ScaMultitaskV2Model"]
    again.save_pretrained(tmp_path / "half", dtype=torch.float16)
    half = sca.load(tmp_path / "half", dtype="float16")
    assert half.describe(image(), BOXES)[0].token_ids


def test_the_auto_classes_of_transformers_load_it(built: sca.Sca, tmp_path: Path) -> None:
    built.save_pretrained(tmp_path)
    sca.register_auto_classes()
    sca.register_auto_classes()
    assert AutoConfig.from_pretrained(tmp_path).num_task_tokens == 2
    model = AutoModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert isinstance(model, sca.Sca)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, sca.ScaProcessor)
    assert processor(image(), input_boxes=[BOXES])["input_boxes"].shape == (1, 2, 4)
    with pytest.raises(ValueError, match="device_map: this model takes dtype and revision only"):
        AutoModel.from_pretrained(tmp_path, device_map="cpu")


def test_llama_is_built_too(sam: Path, tmp_path: Path) -> None:
    settings = LlamaConfig(**{**LLAMA.settings, "eos_token_id": 60})
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    model = sca.Sca.from_parts(sam=sam, language_model=tmp_path, mixer=MIXER, dtype="bfloat16")
    assert model.predictor().describe(image(), BOXES)[1].token_ids
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


@pytest.mark.skipif(not KEYS.is_dir(), reason=f"no official key lists at {KEYS}")
@pytest.mark.parametrize("name", ["vit_h-gpt2_large", "vit_h-open_llama_3b_v2"])
def test_the_layout_that_is_written_is_the_official_one(name: str) -> None:
    official = json.loads((KEYS / f"{name}.json").read_text())
    config = ScaConfig.from_released(official["config"] | {"architectures": ["ScaMultitaskV2Model"]})
    written = {key: list(value.shape) for key, value in released_state(build_without_weights(config)).items()}
    assert written == {key: list(shape) for key, shape in official["keys"].items()}
    assert ScaConfig.from_released(json.loads(json.dumps(released_config(config)))) == config


def test_other_architectures_are_not_written_in_the_released_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save_shipped"):
        sca.save_released(tiny_model(region_token_config()), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_forward_learns_and_generate_says_what_the_predictor_says(built: sca.Sca) -> None:
    processor = sca.ScaProcessor(built.config, built.tokenizer)
    pictures = [image(), image(80, 50)]
    batch = processor(
        pictures,
        input_boxes=[BOXES, [[1, 2, 40, 60], [9, 9, 30, 30]]],
        text=[["w4 w5", "w7"], ["w8 w9 w10", "w1"]],
    )
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 4)
    assert batch["labels"][0, 1].tolist() == [-100, 7, 60, -100, -100]
    given = {
        key: batch[key] for key in ("pixel_values", "input_boxes", "input_ids", "attention_mask", "labels")
    }
    found = built(**given)
    assert found.pred_masks.shape == (2, 2, 3, 32, 32)
    assert found.logits.shape == (4, 5, 61)
    without = built(**{key: value for key, value in given.items() if key != "labels"})
    torch.testing.assert_close(found.loss, without.loss)
    found.loss.backward()
    assert all(value.grad is not None for value in built.released_trainable_parameters().values())
    built.zero_grad()

    prompts = {key: batch[key] for key in ("pixel_values", "input_boxes")}
    said = built.generate(**prompts, num_beams=1)
    chunked = built.generate(**prompts, num_beams=1, generate_chunk_size=1)
    assert torch.equal(said.sequences, chunked.sequences)
    texts = processor.batch_decode(said.sequences)
    predictor = built.predictor()
    assert texts == [
        [caption.text for caption in captions]
        for captions in predictor.describe(pictures, [BOXES, [[1, 2, 40, 60], [9, 9, 30, 30]]])
    ]
    masks = processor.post_process_masks(
        said.pred_masks, batch["original_sizes"], batch["reshaped_input_sizes"]
    )
    assert [tuple(mask.shape) for mask in masks] == [(2, 3, 60, 100), (2, 3, 80, 50)]
    encoding = predictor.encode(pictures[0])
    best = predictor.masks(encoding, predictor.segment(encoding, boxes=BOXES), 0)
    assert torch.equal(masks[0][:, 0], best)
    with pytest.raises(ValueError, match="no prompt"):
        built(batch["pixel_values"])


def test_parts_that_are_none_are_named(sam: Path, language_model: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    for given, message in (
        (
            {"sam": tmp_path / "other.pth", "language_model": language_model},
            r"other\.pth is no SAM checkpoint",
        ),
        ({"sam": tmp_path / "absent.pth", "language_model": language_model}, r"absent\.pth does not exist"),
        ({"sam": language_model, "language_model": language_model}, "of type 'gpt2': name a SAM"),
        ({"sam": sam, "language_model": sam}, "cannot be loaded as a causal language model"),
        ({"sam": sam, "language_model": language_model, "mixr": 3}, "no such setting of a model"),
    ):
        with pytest.raises(ValueError, match=message):
            sca.Sca.from_parts(**given)


def test_a_model_is_pushed_whole(built: sca.Sca, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, list[str]] = {}

    class Api:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repository: str, **_: object) -> None:
            pushed[repository] = []

        def upload_folder(self, *, repo_id: str, folder_path: str, **_: object) -> str:
            pushed[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
            return "a commit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert built.push_to_hub("me/mine") == "a commit"
    assert pushed["me/mine"][:2] == ["config.json", "model.safetensors"]
    assert "tokenizer.json" in pushed["me/mine"]
