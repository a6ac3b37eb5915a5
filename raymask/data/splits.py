"""Parts of a split of data, told by the names of folders and files."""

from __future__ import annotations

import re

TRAIN, TEST = "train", "test"
WORDS = {
    **dict.fromkeys(("train", "training", "trainval", "trainset", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "tst", "eval", "evaluation", "holdout"), TEST),
}
"""Words in the names of folders and files that hold a part of a split."""


def part_of(name: str) -> str | None:
    """The part of a split that a name says: `Training` -> train, `seg_test` -> test, `val2017` -> val; else None."""
    parts = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    return parts.pop() if len(parts) == 1 else None
