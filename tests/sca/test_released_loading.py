"""Loading released checkpoints as users have them: LLaMA's tokenizer file, half precision, mapped weights, bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sca.checkpoints.released_tokenizer import load_released_tokenizer, read_pieces
from sca.config import LanguageModelConfig, ScaConfig, VitEncoderConfig
from sca.registry import load
from tests.fixtures.make_parity_snapshot import released_layout, released_state
from tests.released_folders import PHRASES, train_pieces, write_llama, write_released, write_words
from tests.tiny_models import GPT2, LLAMA, tiny_config, tiny_model

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL = ROOT.parent / "shared" / "parity" / "data"
BOXES = [[5.0, 4.0, 60.0, 40.0], [20.5, 10.0, 90.0, 55.0]]


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `tokenizer.model`, and no other tokenizer file."""
    pytest.importorskip("sentencepiece")
    return train_pieces(tmp_path_factory.mktemp("pieces"))


@pytest.fixture
def llama(tmp_path: Path, pieces: Path) -> Path:
    return write_llama(tmp_path / "llama", pieces)


def write_base(folder: Path) -> Path:
    """A model of ViT-B's size, of zeros in fp16."""
    from sca.checkpoints.strict_loading import build_without_weights

    config = tiny_config(image_size=1024, encoder=VitEncoderConfig.named("vit_b"), language_model=GPT2)
    (folder / "config.json").write_text(json.dumps(released_layout(config)))
    shapes = {name: value.shape for name, value in released_state(build_without_weights(config)).items()}
    save_file(
        {n: torch.zeros(s, dtype=torch.float16) for n, s in shapes.items()}, folder / "model.safetensors"
    )
    return write_words(folder)


def test_llama_needs_its_tokenizer_file_alone_and_half_weights_are_mapped_and_not_copied(
    llama: Path, tmp_path: Path
) -> None:
    """In a process of its own, where nothing is said. A ViT-B in fp16 is 180 MB; loaded as fp16 it adds next to nothing
    that the system could not drop and read again.
    """
    base = write_base(tmp_path)
    assert (base / "model.safetensors").stat().st_size > 170 << 20
    code = (
        "import re, sca, numpy\n"
        "def anonymous(): return int(re.search(r'Anonymous: +(\\d+)', open('/proc/self/smaps_rollup').read())[1]) / 1024\n"
        f"found = sca.load({str(llama)!r}).describe(numpy.full((60, 100, 3), 90, numpy.uint8), {BOXES})\n"
        "assert len(found) == 2 and all(c.token_ids for c in found)\n"
        "import transformers.models.gpt2.modeling_gpt2\n"
        "before = anonymous()\n"
        f"model = sca.load({str(base)!r}, dtype='float16')\n"
        "print(anonymous() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert float(done.stdout) < 100


def test_pieces_are_read_back(pieces: Path) -> None:
    tokenizer = read_pieces(pieces)
    for text in [*PHRASES, "  two  hats", "a hat "]:
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert "<s>" in tokenizer.decode(tokenizer.encode("a hat"), skip_special_tokens=False)
    assert tokenizer.decode([10**6, -4]) == ""


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"no official ids at {OFFICIAL}")
def test_ids_are_the_official_ones() -> None:
    official = json.loads((OFFICIAL / "data.json").read_text())
    tokenizer = read_pieces(OFFICIAL / "llama")
    for regions, wanted in zip(official["regions"], official["llama"]["input_ids"], strict=True):
        for region, ids in zip(regions, wanted, strict=False):
            assert [*tokenizer.encode(region["phrases"][0])[:18], tokenizer.eos_token_id] == ids


def test_without_sentencepiece_the_remedy_is_named(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"tokenizer\.model needs sentencepiece.*pip install sentencepiece"):
        load(llama)


@pytest.mark.parametrize("dtype", ["float16", "bf16"])
@pytest.mark.parametrize("config", [tiny_config(), tiny_config(LLAMA)], ids=["gpt2", "llama"])
def test_half_precision_describes(tmp_path: Path, config: ScaConfig, dtype: str) -> None:
    folder = write_words(write_released(tmp_path, tiny_model(config)))
    full, half = load(folder), load(folder, dtype=dtype)
    assert half.dtype in (torch.float16, torch.bfloat16)
    features = []
    for predictor in (full, half):
        encoding = predictor.encode(image())
        segmentation = predictor.segment(encoding, boxes=BOXES)
        assert segmentation.iou.dtype == segmentation.low_res_logits.dtype == torch.float32
        features.append(predictor.region_features(encoding, segmentation).float())
    assert float((features[1] - features[0]).norm() / features[0].norm()) < 2e-2
    for options in ({"boxes": BOXES}, {"points": [[[30, 20]]]}, {"masks": np.ones((1, 60, 100), bool)}):
        assert all(caption.text for caption in half.describe(image(), beams=3, **options))


def test_the_shipped_model_keeps_its_encoder_exact_in_half_precision() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    full, half = load("demo"), load("demo", dtype=torch.bfloat16)
    one, other = (p.encode(picture).features.embedding.float() for p in (full, half))
    assert float((other - one).norm() / one.norm()) < 2e-2
    assert len(half.describe(picture, BOXES)) == 2


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        model = tiny_model()
        with torch.no_grad():
            model.language_project.weight[3, 4] = value
        with pytest.raises(
            ValueError, match=r"model\.safetensors holds weights .* in language_project\.weight\."
        ):
            load(write_words(write_released(tmp_path, model)))


@pytest.mark.promise("shards-beside")
@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model.safetensors"}}, r"outside its directory, '\.\./model\.safetensors'"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside its directory"),
        ({"weight_map": {"a": "sub/x.safetensors"}}, "outside its directory"),
        ({"weight_map": {"a": ""}}, "outside its directory"),
        ({"metadata": {}}, r"index\.json has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["a"]}, "has no weight_map"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        ({"weight_map": {"a": "absent.safetensors"}}, r"absent\.safetensors does not exist"),
    ],
)
def test_bad_indexes_are_named(tmp_path: Path, index: dict[str, Any], message: str) -> None:
    folder = write_words(write_released(tmp_path / "model", tiny_model()))
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path, llama: Path) -> None:
    settings = {**GPT2.settings, "vocab_size": 70}
    folder = write_released(tmp_path / "gpt2", tiny_model(tiny_config(LanguageModelConfig("gpt2", settings))))
    with pytest.raises(ValueError, match="the tokenizer has 61 words, the language model 70"):
        load(write_words(folder))
    filled_up = {**GPT2.settings, "vocab_size": 128}
    config = tiny_config(LanguageModelConfig("gpt2", filled_up))
    load_released_tokenizer(folder, config)
    (llama / "tokenizer.model").write_bytes(b"\x0a\x0bno pieces")
    with pytest.raises(ValueError, match=r"tokenizer\.model is no sentencepiece model"):
        load(llama)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": None}, "holds what no released SCA checkpoint has"),
        ({"text_config": {"model_type": "no-such-model"}}, "unknown language model type"),
        ({"num_task_tokens": "six"}, "num_task_tokens"),
        ({"mask_caption_decoder_config": {}}, "lacks 'num_attention_heads'"),
    ],
)
def test_strange_configurations_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_words(write_released(tmp_path, tiny_model()))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_unknown_dtypes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use float32, float16 or bfloat16"):
        load("demo", dtype="int8")
