"""What the log says of the steps since its last line."""

from __future__ import annotations

import time

import numpy as np

from sca.training.step import StepLosses


class Meter:
    """Means of the losses since the last line of the log, and images per second."""

    def __init__(self) -> None:
        self.rows: list[StepLosses] = []
        self.start = time.monotonic()

    def add(self, losses: StepLosses) -> None:
        self.rows.append(losses._replace(total=losses.total.detach()))

    def take(self, images: int) -> dict[str, float]:
        columns = {name: [float(getattr(row, name)) for row in self.rows] for name in StepLosses._fields}
        means = {
            name: round(float(np.nanmean(values)), 4)
            for name, values in columns.items()
            if not np.isnan(values).all()
        }
        means["images_per_s"] = round(images * len(self.rows) / (time.monotonic() - self.start), 2)
        self.rows, self.start = [], time.monotonic()
        return means
