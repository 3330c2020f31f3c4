"""How long the tests may take: minutes by day (`make test`), or as long as they are worth (`make test-all`)."""

from __future__ import annotations

import os

LONG = os.environ.get("SCA_TESTS", "day") == "long"


def by_day(few: int, otherwise: int) -> int:
    """`few` repetitions in `make test`, `otherwise` as many in `make test-all`."""
    return otherwise if LONG else few
