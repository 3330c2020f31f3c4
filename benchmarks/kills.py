"""kill -9 of a whole Ray run at random moments: how many rows were seen before each, and that all are there after it.

    python benchmarks/kills.py [--kills 20]

Ends with an error if a row that a reader had seen is lost, or if one is stored twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.side_by_side import describe_machine
from tests.killed_runs import killed_runs
from tests.tiny_checkpoint import write_tiny_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint(Path(folder) / "tiny")
        killed_runs(Path(folder), checkpoint, options.kills, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
