"""The training loop: stages in order, checkpoints that survive being cut at any moment, exact resume."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from sca.config import with_image_size
from sca.data.batches import Batch, BatchMaker, ahead
from sca.data.detector_names import with_detector_names
from sca.data.detector_teacher import CLASSES, read_detections
from sca.data.image_cache import ImageCache
from sca.data.targets import TrainingImage, outlined_regions, region_phrases
from sca.data.text import TOKENIZERS
from sca.data.thing_boxes import ThingBatch, ThingBatchMaker, thing_pictures
from sca.errors import UserError
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder, load_efficientnet_lite
from sca.training.caption_losses import ConsensusReward, consensus_losses, language_losses
from sca.training.checkpoints import load_initial, read_initial
from sca.training.config import StageConfig, TrainingConfig
from sca.training.optimizer import Meter, WeightAverage, build_optimizer, schedule
from sca.training.proposal_losses import ThingKinds, proposal_losses
from sca.training.region_features import (
    TokenBatch,
    TokenTable,
    features_of_batch,
    measure_caption_map,
    token_table,
)
from sca.training.steps import KeptTokens, StepLosses, caption_losses, mask_losses
from sca.training.word_probe import WordProbe
from sca.training.workers import Team

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
DETECTIONS = "detections.jsonl.gz"
"""In the folder of caches: what the detector sees in the training pictures."""


@dataclass
class Progress:
    """Where a run stands: the stage's index and how many of its steps are done."""

    stage: int = 0
    step: int = 0


class Trainer:
    """Trains one model on prepared data; `run` continues from `folder`/checkpoint.pt if it exists."""

    def __init__(
        self,
        config: TrainingConfig,
        data: list[TrainingImage],
        pictures: ImageCache,
        folder: Path,
        initial: Path | None = None,
        team: Team | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.team = team or Team()
        self.device = torch.device(device)
        self.config, self.data, self.pictures = config, data, pictures
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress()
        phrases = [p for entry in region_phrases(data) for target in entry.targets for p in target.phrases]
        saved = self._read_checkpoint(self.folder / CHECKPOINT)
        start = saved if saved is not None or initial is None else read_initial(initial)
        if start is not None:
            self.tokenizer = Tokenizer.from_str(start["tokenizer"])
        else:
            train_tokenizer = TOKENIZERS.get(config.language.tokenizer)
            self.tokenizer = train_tokenizer(phrases, config.language.vocab_size)
        torch.manual_seed(config.seed)
        self.model_config = config.model_config_for(self.tokenizer.get_vocab_size())
        self.model = Sca(self.model_config)
        self.probe = WordProbe(self.model_config.width, self.tokenizer, phrases)
        if config.imagenet_weights and start is None:
            assert isinstance(self.model.image_encoder, TimmEncoder)
            load_efficientnet_lite(self.model.image_encoder)
        if saved is not None:
            self.progress = Progress(**saved["progress"])
        elif start is not None:
            load_initial(self.model, start["average"])
        if saved is None:
            self._measure_caption_map()
        if start is not None and "probe" in start:
            self.probe.load_state_dict(start["probe"])
        self.model.to(self.device)
        self.probe.to(self.device)
        self._enter_stage(saved)

    @property
    def stage(self) -> StageConfig:
        return self.config.stages[self.progress.stage]

    def run(self, until_step: int | None = None) -> None:
        """Train to the end of the last stage, or to `until_step` of the current one."""
        while True:
            self._run_stage(until_step)
            if until_step is not None or self.progress.stage + 1 == len(self.config.stages):
                self.save()
                return
            # Through the file, because only rank 0 keeps the average.
            self.progress = Progress(self.progress.stage + 1, 0)
            self.save(begun=False)
            self.team.any(False)
            saved = self._read_checkpoint(self.folder / CHECKPOINT)
            assert saved is not None
            self._enter_stage(saved)
            self.save()
            self.team.any(False)

    def train_step(self, batch: Batch | TokenBatch | ThingBatch) -> StepLosses:
        """One optimisation step on one batch."""
        stage, step = self.stage, self.progress.step
        rate = schedule(step, stage)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate
        rng = np.random.default_rng((self.config.seed, self.progress.stage, step, 1))
        clicks = float(rng.random())
        # Seeded anew at every step: a resumed run repeats exactly what an uncut one would have done.
        torch.manual_seed(int(rng.integers(2**31)) + self.team.rank)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)) + self.team.rank)
        if isinstance(batch, ThingBatch):
            batch = batch.to(self.device)
        if isinstance(batch, Batch):
            batch = batch.to(self.device)
            if stage.trains == "language":
                batch = features_of_batch(self.model, batch, clicks < stage.caption_clicks)
        # Half of the precision pays on GPUs alone: what is trained on CPUs this way says so itself.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            losses = self._losses(batch, clicks, generator)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.team.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        if self.team.rank == 0:
            self.average.update(self.model)
        self.progress.step += 1
        return losses

    def _losses(
        self, batch: Batch | TokenBatch | ThingBatch, clicks: float, generator: torch.Generator
    ) -> StepLosses:
        """What one step minimises. `clicks`: a draw from 0..1 that decides whether its prompts are clicks."""
        stage = self.stage
        if isinstance(batch, ThingBatch):
            assert self.kinds is not None
            return proposal_losses(self.model, self.kinds, batch)
        if isinstance(batch, TokenBatch) and self.reward is not None:
            return consensus_losses(
                self.model,
                self.tokenizer,
                batch,
                self.reward,
                stage=stage,
                weights=self.config.loss,
                max_tokens=self.config.language.max_tokens,
            )
        if isinstance(batch, TokenBatch):
            return language_losses(
                self.model,
                self.tokenizer,
                batch,
                weights=self.config.loss,
                max_tokens=self.config.language.max_tokens,
            )
        if self._trains_masks(self.progress.step):
            return mask_losses(
                self.model,
                batch,
                stage=stage,
                weights=self.config.loss,
                clicks=clicks < stage.mask_clicks,
                generator=generator,
                kept=None if self.kept is None else self.kept.of(batch, clicks < stage.mask_clicks),
            )
        return caption_losses(
            self.model,
            self.tokenizer,
            batch,
            stage=stage,
            weights=self.config.loss,
            max_tokens=self.config.language.max_tokens,
            clicks=clicks < stage.caption_clicks,
            probe=self.probe,
        )

    def save(self, *, begun: bool = True) -> None:
        """Write the checkpoint atomically (rank 0 of the team).

        begun: False while the stage that `progress` names has no optimizer yet; it starts from the average.
        """
        if self.team.rank > 0:
            return
        target = self.folder / CHECKPOINT
        partial = target.with_suffix(".partial")
        torch.save(
            {
                "progress": vars(self.progress),
                "model": self.model.state_dict(),
                "average": self.average.state,
                "average_updates": self.average.updates,
                "probe": self.probe.state_dict(),
                "optimizer": self.optimizer.state_dict() if begun else None,
                "kinds": self.kinds.state_dict() if begun and self.kinds is not None else None,
                "kept": self.kept.state if begun and self.kept is not None else None,
                "tokenizer": self.tokenizer.to_str(),
                "model_config": self.model.config.to_dict(),
                "config": self.config.model_dump(mode="json"),
            },
            partial,
        )
        os.replace(partial, target)

    def _read_checkpoint(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return saved

    def _enter_stage(self, saved: dict[str, Any] | None) -> None:
        stage = self.stage
        if saved is not None:
            self.model.load_state_dict(saved["average"])
        if self.model.config.image_size != stage.size:
            state = self.model.state_dict()
            self.model = Sca(with_image_size(self.model_config, stage.size)).to(self.device)
            self.model.load_state_dict(state)
        encoder = self.model.image_encoder
        assert isinstance(encoder, TimmEncoder)
        encoder.to(memory_format=torch.channels_last)
        self.kinds: ThingKinds | None = None
        if stage.trains == "proposals":
            if self.model_config.proposals is None:
                raise UserError(
                    f"stage {stage.name} trains proposals, and the model has none: set model.proposals"
                )
            torch.manual_seed(self.config.seed)
            self.kinds = ThingKinds(self.model_config.proposals.width, len(CLASSES)).to(self.device)
        self.optimizer = build_optimizer(self.model, stage, self.probe if self.kinds is None else self.kinds)
        self.average = WeightAverage(self.model, stage.ema)
        self.kept = KeptTokens(self.model) if stage.trains == "masks" else None
        if saved is not None and saved["optimizer"] is not None:
            if self.kept is not None:
                self.kept.load(saved["kept"])
            self.model.load_state_dict(saved["model"])
            self.average.load(saved["average"], saved["average_updates"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.kinds is not None:
                self.kinds.load_state_dict(saved["kinds"])
        self.model.train()
        # ImageNet's batch-norm statistics stay: batches here are too small for their own.
        encoder.backbone.eval()
        encoder.head.eval()
        if encoder.caption_backbone is not None:
            encoder.caption_backbone.eval()
        if encoder.caption_map is not None:
            encoder.caption_map.dropout = stage.feature_dropout
        images, seen = (
            [entry.image for entry in self.data],
            read_detections(self.folder / "cache" / DETECTIONS),
        )
        self.spoken = with_detector_names(images, seen) if stage.detector_names else self.data
        phrases = region_phrases(self.spoken)
        self.things = self._things()
        self.captions = self._maker(phrases, stage.regions)
        self.masks = self._maker(outlined_regions(self.data), stage.mask_regions)
        self.tokens: TokenTable | None = None
        self.reward: ConsensusReward | None = None
        if stage.trains == "language":
            if stage.views:
                self.tokens = token_table(
                    self.model, self.spoken, self.pictures, stage, self.config.seed, self.folder, self.team
                )
            if stage.objective == "consensus":
                documents = [target.phrases for entry in phrases for target in entry.targets]
                self.reward = ConsensusReward(documents)

    def _things(self) -> ThingBatchMaker | None:
        """What a stage of box proposals is taught by."""
        stage = self.stage
        if stage.trains != "proposals":
            return None
        images = [entry.image for entry in self.data]
        seen = read_detections(self.folder / "cache" / DETECTIONS)
        return ThingBatchMaker(
            thing_pictures(images, seen, CLASSES),
            self.pictures,
            seed=self.config.seed + 1000 * self.progress.stage,
            size=stage.size,
            images=stage.images // self.team.size,
        )

    def _measure_caption_map(self) -> None:
        encoder = self.model.image_encoder
        assert isinstance(encoder, TimmEncoder)
        if encoder.caption_map is not None and not bool(encoder.caption_map.mean.any()):
            self.model.eval()
            measure_caption_map(self.model, self.data, self.pictures)

    def _trains_masks(self, step: int) -> bool:
        if self.stage.trains != "all":
            return self.stage.trains == "masks"
        return step % self.stage.mask_every == self.stage.mask_every - 1

    def _maker(self, data: list[TrainingImage], regions: int) -> BatchMaker:
        stage = self.stage
        return BatchMaker(
            data,
            self.pictures,
            seed=self.config.seed + 1000 * self.progress.stage,
            size=stage.size,
            images=stage.images // self.team.size,
            regions=regions,
            zoom=stage.zoom,
            box_jitter=stage.box_jitter,
            shares=self.config.shares,
        )

    def make_batch(self, step: int) -> Batch | TokenBatch | ThingBatch:
        """This process's share of one step's batch; the kinds of step count their batches apart."""
        if self.things is not None:
            return self.things.make(step * self.team.size + self.team.rank)
        if self.tokens is not None:
            stage = self.stage
            size = stage.images * stage.regions // self.team.size
            seed = self.captions.seed + 7 * self.team.rank
            return self.tokens.batch(self.spoken, seed, step, size, stage.sentences)
        earlier_masks = {"masks": step, "language": 0}.get(self.stage.trains, step // self.stage.mask_every)
        if self._trains_masks(step):
            return self.masks.make(earlier_masks * self.team.size + self.team.rank)
        return self.captions.make((step - earlier_masks) * self.team.size + self.team.rank)

    def _run_stage(self, until_step: int | None) -> None:
        stage = self.stage
        last = stage.steps if until_step is None else min(until_step, stage.steps)
        log.info(
            "stage %s: steps %d to %d, %.0f caption steps an epoch",
            stage.name, self.progress.step, last, self.captions.steps_per_epoch / self.team.size,
        )  # fmt: skip
        meter = Meter()
        saved_at = time.monotonic()
        with _stop_on_signal() as stopped:
            for batch in ahead(self.make_batch, self.progress.step, last, self.config.loaders):
                meter.add(self.train_step(batch))
                if self.progress.step % self.config.log_every == 0:
                    self._log(meter)
                stop = self.team.any(stopped())
                if stop or time.monotonic() - saved_at > self.config.checkpoint_every_s:
                    self.save()
                    saved_at = time.monotonic()
                if stop:
                    raise KeyboardInterrupt

    def _log(self, meter: Meter) -> None:
        if self.team.rank > 0:
            return
        row = {"stage": self.stage.name, "step": self.progress.step, "time": time.strftime("%H:%M:%S")}
        row |= meter.take(self.stage.images)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        log.info("%s", row)


@contextmanager
def _stop_on_signal() -> Iterator[Any]:
    """A function that says whether SIGTERM or SIGINT arrived; the loop then saves before it ends."""
    arrived: list[int] = []
    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            previous[number] = signal.signal(number, lambda received, _: arrived.append(received))
        except ValueError:  # not in the main thread
            break
    try:
        yield lambda: bool(arrived)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
