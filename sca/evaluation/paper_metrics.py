"""METEOR and SPICE, which the paper reports as well: both are Java programs that pycocoevalcap carries or fetches."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sca.evaluation.region_captions import RegionCaption


@dataclass(frozen=True)
class PaperMetrics:
    """Over all regions, 0..1; None where a metric cannot run on this machine, with the reason in `missing`."""

    meteor: float | None
    spice: float | None
    missing: tuple[str, ...] = ()

    def text(self) -> str:
        """One line."""
        values = (("METEOR", self.meteor), ("SPICE", self.spice))
        known = [f"{name} {value:.3f}" for name, value in values if value is not None]
        return "; ".join([*known, *(f"not computed: {reason}" for reason in self.missing)])


def paper_metrics(captions: Sequence[RegionCaption]) -> PaperMetrics:
    """Score captions with METEOR 1.5 and SPICE 1.0 as coco-caption does, over whitespace tokens.

    Nothing is downloaded: SPICE runs only where Stanford CoreNLP 3.6.0 lies beside pycocoevalcap already.
    """
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return PaperMetrics(None, None, ("METEOR and SPICE need pycocoevalcap: pip install pycocoevalcap",))
    if shutil.which("java") is None:
        return PaperMetrics(None, None, ("METEOR and SPICE need Java: install a JRE",))
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = _score(Meteor, captions)
    grammar = (
        Path(next(iter(package.submodule_search_locations))) / "spice" / "lib" / "stanford-corenlp-3.6.0.jar"
    )
    if not grammar.exists():
        remedy = "python -m pycocoevalcap.spice.get_stanford_models"
        return PaperMetrics(meteor, None, (f"SPICE needs Stanford CoreNLP 3.6.0: {remedy}",))
    from pycocoevalcap.spice.spice import Spice

    return PaperMetrics(meteor, _score(Spice, captions))


def _score(metric: Callable[[], Any], captions: Sequence[RegionCaption]) -> float:
    references = {i: list(caption.references) for i, caption in enumerate(captions)}
    score, _ = metric().compute_score(references, {i: [c.text] for i, c in enumerate(captions)})
    return float(score)
