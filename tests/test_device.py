"""What a process does before it computes, seen from outside: in processes of their own."""

from __future__ import annotations

import subprocess
import sys

FAULTS = """
import resource, sys, torch
from raymask.device import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def use(): torch.ones(8 * 2**20)  # 32 MB
for _ in range(20): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_freed_memory_is_used_again_without_being_mapped_again() -> None:
    _, by_default = page_faults("default")
    kept, faults = page_faults("keep")
    assert kept == "True"
    assert by_default > 10 * 32 * 2**20 / 4096 / 2  # each tensor of 32 MB anew, page by page
    assert faults < by_default / 20
