"""How box proposals learn: which cell answers for which thing, and what it is told."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, generalized_box_iou_loss

from sca.data.thing_boxes import ThingBatch, Things
from sca.modeling.box_proposals import STRIDES
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder
from sca.training.steps import StepLosses, normalise

# SimOTA (YOLOX): a thing is given to the cells whose boxes cost least, as many as the boxes that already fit it add up to.
_MOST_CELLS = 10
_IOU_COST = 3.0
_OUTSIDE, _NOWHERE = 100.0, 1e5
_NEAR_CENTRE = 1.5  # in strides
# A cell that answers for nothing but whose box fits a thing is told nothing.
_FITS_ANYWAY = 0.7
_FREE, _UNTOLD = -1, -2
# Weights of the three losses, as usual for detectors of this kind; the kind of a thing only shapes the features.
_FITS, _SIDES, _KINDS = 2.0, 5.0, 0.5
_FOCUS = 1.5


class ThingKinds(nn.Module):
    """Names the detector's class of a cell's thing, while proposals are trained: features that know kinds find things better."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.kinds = nn.Conv2d(width, count, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of all strides to logits (B, N, count)."""
        return torch.cat([self.kinds(part).flatten(2) for part in features], dim=2).transpose(1, 2)


def proposal_losses(model: Sca, kinds: ThingKinds, batch: ThingBatch) -> StepLosses:
    """The loss of one batch; the image encoder stays as it is."""
    head, encoder = model.box_proposals, model.image_encoder
    assert head is not None
    assert isinstance(encoder, TimmEncoder)
    with torch.no_grad():
        maps = encoder.neck(*encoder.backbone_maps(normalise(batch.pixels, model)))
    features = head.features(maps.embedding.float(), maps.fine.float())
    boxes, scores = head.predictions(features)
    named = kinds(features)
    cells = cells_of(model.config.image_size, boxes.device)
    fits, sides, kind, count = (boxes.new_zeros(()) for _ in range(4))
    for row, things in enumerate(batch.things):
        owner = owners(boxes[row].detach(), scores[row].detach(), things, cells)
        taken = owner >= 0
        target = torch.zeros_like(scores[row])
        if bool(taken.any()):
            own, mine = things.boxes[owner[taken]], boxes[row][taken]
            iou = box_iou(mine.detach(), own).diagonal().clamp(0.05, 1.0)
            target[taken] = iou
            weight = things.scores[owner[taken]]
            sides = sides + (generalized_box_iou_loss(mine, own) * weight).sum()
            kind = kind + _kind_loss(named[row][taken], things.kinds[owner[taken]], iou)
            count = count + taken.sum()
        told = owner != _UNTOLD
        focus = (scores[row].detach() - target).abs() ** _FOCUS
        answer = F.binary_cross_entropy(scores[row].clamp(1e-6, 1 - 1e-6), target, reduction="none")
        fits = fits + (answer * focus * told).sum()
    count = count.clamp(min=1)
    total = (_FITS * fits + _SIDES * sides + _KINDS * kind) / count
    return StepLosses(total, fits=float(fits.detach() / count), sides=float(sides.detach() / count))


@torch.no_grad()
def owners(boxes: Tensor, scores: Tensor, things: Things, cells: Tensor) -> Tensor:
    """(N,) For which thing each cell answers, an index; -1: for none, -2: nobody knows whether there is one.

    boxes (N, 4) and scores (N,) of all cells; cells (N, 3): x, y and stride.
    """
    place, stride = cells[:, :2], cells[:, 2:]
    owner = torch.full((len(boxes),), _FREE, device=boxes.device)
    if len(things.unknown):
        owner[_inside(place, things.unknown).any(1)] = _UNTOLD
    if not len(things.boxes):
        return owner
    # 1. What it would cost each cell to answer for each thing.
    inside = _inside(place, things.boxes)
    middle = (things.boxes[:, :2] + things.boxes[:, 2:]) / 2
    central = ((place[:, None] - middle[None]).abs() < _NEAR_CENTRE * stride[:, None]).all(-1)
    iou = box_iou(boxes, things.boxes)
    cost = -scores.clamp(min=1e-6).log()[:, None] - _IOU_COST * iou.clamp(min=1e-6).log()
    cost = cost + _OUTSIDE * ~(inside & central) + _NOWHERE * ~(inside | central)
    # 2. Each thing takes the cheapest; a cell that several want goes to the one it suits best.
    wanted = iou.topk(min(_MOST_CELLS, len(iou)), dim=0).values.sum(0).clamp(1, _MOST_CELLS).int()
    rank = cost.argsort(dim=0).argsort(dim=0)
    chosen = (rank < wanted[None]) & (cost < _NOWHERE)
    best = cost.masked_fill(~chosen, float("inf")).argmin(1)
    taken = chosen.any(1)
    # 3. And a free cell whose box fits a thing all the same is no mistake.
    owner[~taken & (owner == _FREE) & (iou.max(1).values > _FITS_ANYWAY)] = _UNTOLD
    owner[taken] = best[taken]
    return owner


def _inside(place: Tensor, boxes: Tensor) -> Tensor:
    """(N, M) Which points (N, 2) lie in which boxes (M, 4)."""
    return ((place[:, None] > boxes[None, :, :2]) & (place[:, None] < boxes[None, :, 2:])).all(-1)


def _kind_loss(logits: Tensor, kinds: Tensor, iou: Tensor) -> Tensor:
    known = kinds >= 0
    if not bool(known.any()):
        return logits.new_zeros(())
    target = F.one_hot(kinds[known], logits.shape[1]).float() * iou[known, None]
    return F.binary_cross_entropy_with_logits(logits[known], target, reduction="sum")


def cells_of(size: int, device: torch.device) -> Tensor:
    """(N, 3) x and y of every cell's centre in input pixels, and its stride, finest map first."""
    parts = []
    for stride in STRIDES:
        side = size // stride
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        where = (torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * stride
        parts.append(torch.cat([where, torch.full((side * side, 1), float(stride))], dim=1))
    return torch.cat(parts).to(device)
