"""docs/reliability.md names, for each fault, tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
ASKED = (
    "unplugged", "becomes the default", "callback overflow", "disk full while saving", "SIGKILL", "SIGTERM",
    "terminal closed", "clock jump", "NaN block", "3 s stall", "CPU starvation", "never reads",
)  # fmt: skip


def rows() -> list[list[str]]:
    lines = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] != "fault" and not set(row[0]) <= {"-"}]


def test_every_fault_has_a_test_that_injects_it() -> None:
    faults = rows()
    assert all(len(row) == 6 for row in faults)
    for row in faults:
        named = re.findall(r"`(\w+\.py)::(\w+)`", row[5])
        assert named, row[0]
        for file, test in named:
            assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8"), (file, test)
    told = [row[0] for row in faults]
    assert all(any(fault in each for each in told) for fault in ASKED)
