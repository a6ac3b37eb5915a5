"""How long a pack's training still takes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from raymask.training.pace import Pace


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    steps=st.integers(2, 12),
    epochs=st.integers(2, 6),
    views=st.integers(1, 4),
    seconds=st.floats(0.01, 10),
    scoring=st.floats(0, 20),
    saving=st.floats(0, 5),
    slowness=st.floats(1, 10),
    noise=st.lists(st.floats(-0.1, 0.1), min_size=72, max_size=72),
)
def test_from_the_second_epoch_on_it_is_right_to_a_fifth(
    steps: int, epochs: int, views: int, seconds: float, scoring: float, saving: float, slowness: float, noise: list[float]
) -> None:
    """Whatever the first one pays beside, and however its steps and those of others differ by a tenth."""
    clock = Clock()
    pace, told = Pace(steps, epochs, views, clock), list[tuple[float, float]]()
    noisy = iter(noise)
    for epoch in range(epochs):
        for step in range(steps):
            clock.now += seconds * (1 + next(noisy)) * (slowness if epoch == 0 else 1)
            pace.step()
            left = pace.seconds_left(epoch + (step + 1) / steps)
            if epoch > 0 and step < steps - 1:
                assert left is not None
                told.append((clock.now, left))
        clock.now += scoring + saving
        pace.end_epoch(scoring)
        left = pace.seconds_left(epoch + 1)
        assert left is not None
        if epoch > 0:
            told.append((clock.now, left))
    clock.now += views * scoring
    for when, left in told:
        truth = clock.now - when
        assert abs(left - truth) <= 0.2 * truth + 1e-6
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(told))


def test_in_the_first_epoch_nothing_is_known() -> None:
    clock = Clock()
    pace = Pace(2, 3, 1, clock)
    assert pace.seconds_left(0) is None
    pace.step()
    assert pace.seconds_left(0.5) is None


def test_an_epoch_of_one_batch() -> None:
    clock = Clock()
    pace = Pace(1, 4, 2, clock)
    for epoch in range(2):
        clock.now += 10 if epoch else 60
        pace.step()
        clock.now += 2
        pace.end_epoch(1.5)
    assert pace.seconds_left(2) == 2 * (10 + 2) + 2 * 1.5
