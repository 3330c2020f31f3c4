"""kill -9 of the process that writes a store, at random moments and inside of merges and archives, with readers beside.

    python -m benchmarks.store_kills [--kills 80] [--readers 2]

Ends with an error if an acknowledged row is lost, if one is stored twice, or if a reader saw anything but whole batches.
`benchmarks/store_faults.py` kills at each system call, `benchmarks/kills.py` kills whole runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.side_by_side import describe_machine
from tests.killed_writers import killed_writers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--readers", type=int, default=2)
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tally = killed_writers(
            Path(folder), options.kills, options.readers, lambda line: print(line, flush=True)
        )
    print(
        f"{tally.kills} kills, of which {tally.merges} left a merge half written, {tally.archives} an archive, {tally.commits} a "
        f"commit; {tally.unacknowledged} times a commit was stored and not acknowledged; {tally.stored} batches, none lost, none "
        f"twice; {tally.reads} reads beside, none wrong"
    )


if __name__ == "__main__":
    main()
