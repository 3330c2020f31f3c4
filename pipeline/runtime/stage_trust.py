"""When a stage that lives but fails call after call is replaced, such as one whose GPU context is broken."""

from __future__ import annotations

FAULTS_IN_A_ROW = 3
"""One may be a bad picture's doing, and two the same picture's once more behind the last commit."""


class StageTrust:
    """Counts what failed since the last call of a stage that went well."""

    def __init__(self) -> None:
        self.faults = 0

    def went_well(self) -> None:
        self.faults = 0

    def failed(self) -> bool:
        """Note a failed call. True when the stage is to be replaced."""
        self.faults += 1
        return self.faults >= FAULTS_IN_A_ROW
