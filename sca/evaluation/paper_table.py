"""A model's scores beside those that the paper reports, in Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sca.evaluation.predictions import PROTOCOLS, Prediction
from sca.evaluation.reference_scorers import METRICS, Scores, score_pairs

_SCA = "Segment and Caption Anything (arXiv 2312.00869), model zoo"
_ASM = "The All-Seeing Project (arXiv 2308.01907)"
_GPT4ROI = "GPT4RoI (arXiv 2307.03601)"


@dataclass(frozen=True)
class PaperRow:
    """A published row: percentages by metric, and where they were published."""

    name: str
    values: Mapping[str, float]
    source: str


PAPER = (
    PaperRow(
        "SCA (GPT2-large, VG)",
        {"CIDEr-D": 148.8, "METEOR": 17.4, "SPICE": 31.2, "BLEU-1": 38.0, "BLEU-2": 23.9, "BLEU-3": 16.6, "BLEU-4": 12.1, "ROUGE-L": 35.5, "Noun": 41.5, "Verb": 4.8, "Noun (F)": 65.0, "Verb (F)": 7.6},
        _SCA,
    ),
    PaperRow("SCA (LLAMA-3B, VG)", {"CIDEr-D": 149.8, "METEOR": 17.4, "SPICE": 31.3}, _SCA),
    PaperRow("SCA (GPT2-large, Pretrain+VG)", {"CIDEr-D": 149.8, "METEOR": 17.5, "SPICE": 31.4}, _SCA),
    PaperRow("GRiT", {"CIDEr-D": 142.0, "METEOR": 17.1}, "GRiT (arXiv 2212.00280), as the ASM v2 README lists it"),
    PaperRow("ASM, zero-shot", {"CIDEr-D": 44.2, "METEOR": 12.6}, _ASM),
    PaperRow("ASM, fine-tuned", {"CIDEr-D": 145.1, "METEOR": 18.0}, _ASM),
    PaperRow("GPT4RoI 7B", {"CIDEr-D": 145.2, "METEOR": 17.4}, _GPT4ROI),
    PaperRow("GPT4RoI 13B", {"CIDEr-D": 146.8, "METEOR": 17.6}, _GPT4ROI),
    PaperRow("GPT4RoI 7B\u2021", {"CIDEr-D": 122.3, "METEOR": 16.4}, f"{_GPT4ROI}, measured again by the SCA paper"),
)  # fmt: skip
"""Their protocols differ: SCA's rows are the densecap test split, boxes, three beams and half precision; other rows are as
their authors measured them."""


@dataclass(frozen=True)
class PaperReport:
    """A model's scores, and how they were measured: `runs`, in words, one unless predictions were joined."""

    name: str
    scores: Scores
    runs: tuple[str, ...]
    images: int

    def text(self) -> str:
        """The tables in Markdown. Percentages; a dash is what was not published, or cannot be computed here."""
        lines = [
            f"{self.scores.pairs} regions of {self.images} images. How: {'; '.join(self.runs) or 'the file does not say'}.",
            "Pictures are prepared on the CPU, bit for bit as in the reference.",
            "",
            f"| model | {' | '.join(METRICS)} |",
            f"| --- |{' --- |' * len(METRICS)}",
            _line(f"**{self.name.replace('|', chr(92) + '|')}**", self.values()),
            *(_line(row.name, row.values) for row in PAPER),
            "",
        ]
        reasons: dict[str, list[str]] = {}
        for metric, reason in self.scores.missing.items():
            reasons.setdefault(reason, []).append(metric)
        lines += [f"- {', '.join(metrics)}: {reason}" for reason, metrics in reasons.items()]
        lines += [f"- {note}" for note in self.scores.notes]
        lines += [f"- {row.name}: {row.source}" for row in PAPER]
        return "\n".join(lines)

    def values(self) -> dict[str, float]:
        """Percentages by metric."""
        return {name: 100 * value for name, value in self.scores.values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "model": self.name,
            "how": list(self.runs),
            "regions": self.scores.pairs,
            "images": self.images,
            "percent": self.values(),
            "missing": dict(self.scores.missing),
            "notes": list(self.scores.notes),
            "paper": [
                {"model": row.name, "percent": dict(row.values), "source": row.source} for row in PAPER
            ],
        }


def report_on(predictions: Sequence[Prediction], name: str) -> PaperReport:
    """Score predictions. UserError where one has no reference."""
    scores = score_pairs([own.candidate for own in predictions], [own.references for own in predictions])
    masks = [own.mask_iou for own in predictions if own.mask_iou is not None]
    if masks:
        scores = replace(scores, values={**scores.values, "mask IoU": float(sum(masks) / len(masks))})
    else:
        scores = replace(scores, missing={**scores.missing, "mask IoU": "the data has no masks"})
    runs = tuple(dict.fromkeys(" ".join(own.run.split()) for own in predictions if own.run))
    images = len({own.image_id for own in predictions})
    return PaperReport(name, scores, runs, images)


def protocol_help() -> str:
    """The protocols in one line."""
    return "; ".join(f"{name}: {meaning}" for name, (_, meaning) in PROTOCOLS.items())


def _line(name: str, values: Mapping[str, float]) -> str:
    cells = [f"{values[metric]:.1f}" if metric in values else "\u2013" for metric in METRICS]
    return f"| {name} | {' | '.join(cells)} |"
