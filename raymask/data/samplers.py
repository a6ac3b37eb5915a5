"""Which rows an epoch holds, and how often: samplers by name. Pure, like all that decides a stream.

A sampler says how often the rows of a stratum (a class, a group) are drawn in an epoch. Each fold is drawn for itself and has the
same number of draws in every epoch, so that epochs are of one length, and what is in a fold changes no draw of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raymask.core.columns import train_label_column
from raymask.core.registry import Registry
from raymask.core.types import Labels

GROUP = "group"
"""The manifest's column of groups (such as people)."""
UNIT = 2**24
"""Expected draws are counted in parts of one, as whole numbers, so that no row is drawn once more for a rounding error."""


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler with all that it needs: what a stream's spec holds as text."""

    name: str
    by: str | None = None
    """Task whose classes are counted, or joint; None where no classes are."""
    power: float = 1.0
    factors: tuple[float, ...] = ()
    """Times an epoch that a row is drawn, by label."""
    epochs: int = 1

    @property
    def column(self) -> str | None:
        """The manifest's column of the strata; None where all rows of a fold are one."""
        if self.name == "one_per_group":
            return GROUP
        return None if self.by is None else train_label_column(self.by)


@lru_cache(maxsize=64)
def read_sampler(text: str) -> SamplerSpec:
    """The sampler of a stream's spec.

    Args:
        text: its name alone, or JSON of its name and arguments.

    Example:
        >>> read_sampler("shuffle").column
        >>> read_sampler('{"by": "age", "name": "balanced", "power": 0.5}').column
        'train_label_age'
    """
    given = json.loads(text) if text.startswith("{") else {"name": text}
    return SamplerSpec(**{**given, "factors": tuple(given.get("factors", ()))})


Expected = npt.NDArray[np.float64]
Sampler = Callable[[Labels, Labels, SamplerSpec, int], Expected]
"""From the (S,) labels or groups of a fold's strata, the (S,) number of rows of each, the arguments and the epoch to the (S,)
draws that each stratum may expect.

Their sum is the same in every epoch. Rows without a label are not among them: each is drawn once.
"""


def shuffle(stratum: Labels, rows: Labels, sampler: SamplerSpec, epoch: int) -> Expected:  # noqa: ARG001
    """Each row once."""
    return rows.astype(np.float64)


def balanced(stratum: Labels, rows: Labels, sampler: SamplerSpec, epoch: int) -> Expected:  # noqa: ARG001
    """As many draws as rows, shared by classes of n rows as n^(1 - power): all alike with power 1, as they are with 0.

    Source: Mahajan et al. 2018 (arXiv:1805.00932) for the square root, Kang et al. 2020 (arXiv:1910.09217) for the power.
    """
    return _shared(rows, sampler.power)


def dynamic(stratum: Labels, rows: Labels, sampler: SamplerSpec, epoch: int) -> Expected:  # noqa: ARG001
    """Classes as they are in the first epoch, `balanced` in the last, with a power that rises evenly between.

    Source: Wang et al. 2019, Dynamic Curriculum Learning (arXiv:1901.06783), with its linear schedule.
    """
    return _shared(rows, sampler.power * min(1.0, epoch / max(1, sampler.epochs - 1)))


def repeat(stratum: Labels, rows: Labels, sampler: SamplerSpec, epoch: int) -> Expected:  # noqa: ARG001
    """Each row as often as its class's factor says, fractions by chance.

    Source: Gupta et al. 2019, LVIS (arXiv:1908.03195), whose factors come of the classes' frequencies.
    """
    return np.asarray(rows * np.array(sampler.factors, np.float64)[stratum])


def one_per_group(stratum: Labels, rows: Labels, sampler: SamplerSpec, epoch: int) -> Expected:  # noqa: ARG001
    """One row of each group (such as a person)."""
    return np.ones(len(rows))


def _shared(rows: Labels, power: float) -> Expected:
    share = rows.astype(np.float64) ** (1 - power)
    return np.asarray(rows.sum() * share / share.sum())


SAMPLERS: Registry[Sampler] = Registry(
    "recipe.sampler.name",
    {"shuffle": shuffle, "balanced": balanced, "dynamic": dynamic, "repeat": repeat, "one_per_group": one_per_group},
)
"""Samplers by name."""


@dataclass(frozen=True, eq=False)
class FoldRows:
    """The rows of one fold, by stratum."""

    fold: int
    rows: Labels
    """(n,) rows of the manifest, rising."""
    stratum_of: Labels
    """(n,) number of each row's stratum."""
    strata: Labels
    """(S,) label or group of each stratum."""
    sizes: Labels
    """(S,) rows of each stratum."""


def rows_by_fold(fold: Labels, stratum: Labels | None) -> tuple[FoldRows, ...]:
    """The rows of each fold.

    Args:
        fold: (N,) fold of each row of the manifest.
        stratum: (N,) label or group of each; None where all rows of a fold are alike.
    """
    of_row = np.zeros_like(fold) if stratum is None else stratum
    parts = []
    for one in np.unique(fold).tolist():
        rows = np.flatnonzero(fold == one)
        strata, stratum_of, sizes = np.unique(of_row[rows], return_inverse=True, return_counts=True)
        parts.append(FoldRows(one, rows, stratum_of, strata, sizes))
    return tuple(parts)


def expected_draws(sampler: SamplerSpec, part: FoldRows, epoch: int) -> Labels:
    """(S,) draws that a fold's strata may expect in an epoch, in parts of `UNIT`."""
    expected, labelled = part.sizes.astype(np.float64), part.strata >= 0
    of_labelled = SAMPLERS.get(sampler.name)(part.strata[labelled], part.sizes[labelled], sampler, epoch)
    expected[labelled] = of_labelled
    return np.rint(expected * UNIT).astype(np.int64)


def count_draws(expected: Labels) -> int:
    """Draws of a fold in an epoch, from `expected_draws`: their sum, to the nearest whole number."""
    return int(expected.sum() + UNIT // 2) // UNIT


def draw(part: FoldRows, expected: Labels, rng: np.random.Generator) -> Labels:
    """(D,) rows of a fold that an epoch holds, rising; D is that of `count_draws`.

    By systematic sampling: the rows lie on a line, stratum by stratum and shuffled in each, every one as long as the draws that
    it may expect, and those are drawn that a comb meets whose D teeth are 1 apart. So each row is drawn as often as it may
    expect, rounded down or up, and so is each stratum.

    Args:
        part: the rows.
        expected: (S,) draws of each stratum, see `expected_draws`.
        rng: what is drawn from.

    Source: Madow 1949, On the theory of systematic sampling, II (Annals of Mathematical Statistics 20).
    """
    if np.array_equal(expected, UNIT * part.sizes):
        return part.rows  # each once, in less time
    shuffled = rng.permutation(len(part.rows))
    order = shuffled[np.argsort(part.stratum_of[shuffled], kind="stable")]
    place = np.arange(1, len(order) + 1) - np.repeat(np.cumsum(part.sizes) - part.sizes, part.sizes)
    whole, rest = np.divmod(expected, part.sizes)
    ends = np.repeat(np.cumsum(expected) - expected, part.sizes) + np.repeat(whole, part.sizes) * place
    ends += np.repeat(rest, part.sizes) * place // np.repeat(part.sizes, part.sizes)
    draws = count_draws(expected)
    spare = int(expected.sum()) - draws * UNIT
    first_tooth = rng.integers(max(0, spare), min(UNIT, spare + UNIT))
    met = np.searchsorted(ends, first_tooth + UNIT * np.arange(draws), side="right")
    return np.sort(part.rows[order[met]])


def spread(fold: Labels, rng: np.random.Generator) -> Labels:
    """(D,) the numbers 0 to D - 1, shuffled so that each fold is spread evenly.

    So every batch holds equally many rows of a fold, give or take one: fold models learn from batches of one size, for which
    their operators are set up but once.

    Args:
        fold: (D,) fold of what each number stands for.
        rng: what is drawn from.
    """
    shuffled = rng.permutation(len(fold))
    number, size = np.unique(fold[shuffled], return_inverse=True, return_counts=True)[1:]
    by_fold = np.argsort(number, kind="stable")
    rank = np.empty(len(number))
    rank[by_fold] = np.arange(len(number)) - np.repeat(np.cumsum(size) - size, size)
    return np.asarray(shuffled[np.argsort((rank + rng.random(len(size))[number]) / size[number], kind="stable")])


def epoch_order(sampler: SamplerSpec, parts: Sequence[FoldRows], seed: int, epoch: int) -> Labels:
    """(D,) rows of an epoch in their order, decided by (seed, epoch) alone; D is the same in every epoch."""
    rng = np.random.default_rng([seed, epoch])
    drawn = [
        draw(part, expected_draws(sampler, part, epoch), of_fold)
        for part, of_fold in zip(parts, rng.spawn(len(parts)), strict=True)
    ]
    if all(len(rows) == len(part.rows) for rows, part in zip(drawn, parts, strict=True)):
        # Each draw in the place of a row of its fold, so that the order of a fold's rows does not depend on what others draw.
        places = [part.rows for part in parts]
    else:
        ends = np.cumsum([len(rows) for rows in drawn])
        places = [np.arange(end - len(rows), end) for rows, end in zip(drawn, ends, strict=True)]
    fold, rows = (np.empty(sum(map(len, places)), np.int64) for _ in range(2))
    for part, of_fold, place in zip(parts, drawn, places, strict=True):
        fold[place], rows[place] = part.fold, of_fold
    return np.asarray(rows[spread(fold, rng)])


def occurrences(order: Labels) -> Labels:
    """(D,) how often each row has come before in an order.

    Example:
        >>> occurrences(np.array([4, 7, 4, 4, 7])).tolist()
        [0, 0, 1, 2, 1]
    """
    if len(order) == 0 or np.bincount(order).max() == 1:
        return np.zeros(len(order), np.int64)  # in less time
    by_row = np.argsort(order, kind="stable")
    first = np.flatnonzero(np.diff(order[by_row], prepend=-1))
    sizes = np.diff(first, append=len(order))
    before = np.empty(len(order), np.int64)
    before[by_row] = np.arange(len(order)) - np.repeat(first, sizes)
    return before
