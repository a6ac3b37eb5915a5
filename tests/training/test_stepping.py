"""Tests of steps of the optimizer: several batches make the step of one batch of all their rows."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from raymask.config.recipe import Recipe
from raymask.models.classifier import Classifier
from raymask.training.stepping import Stepper

WIDTH, CLASSES = 4, 3


class Toy(nn.Module):
    """A network without batch norm, in the two parts of a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(WIDTH, 5), nn.Tanh())
        self.heads = nn.ModuleDict({"any-head": nn.Linear(5, CLASSES)})

    def loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.heads["any-head"](self.backbone(rows)), labels)


def stepper_of(toy: Toy, batches: int, amp: str = "off", **optim: Any) -> Stepper:
    given_optim = {"name": "sgd", "lr": 0.3, "weight_decay": 0.0, "arguments": {"momentum": 0.0, "nesterov": False}, **optim}
    recipe = Recipe.model_validate({"optim": given_optim, "batch_size": 8, "schedule": {"name": "constant", "warmup": 0}})
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
    return Stepper(recipe, cast("Classifier", toy), scaler, batches)


def drawn(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, WIDTH, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)


def stepped_by_hand(toy: Toy, batches: list[tuple[Tensor, Tensor]], lr: float, clip: float = 0.0) -> None:
    """A step of plain gradient descent on the mean loss over all rows of these batches."""
    rows, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    gradients = torch.autograd.grad(toy.loss(rows, labels), list(toy.parameters()))
    norm = torch.sqrt(sum((gradient.square().sum() for gradient in gradients), torch.zeros(())))
    scale = min(1.0, clip / float(norm)) if clip else 1.0
    with torch.no_grad():
        for parameter, gradient in zip(toy.parameters(), gradients, strict=True):
            parameter.sub_(lr * scale * gradient)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=7),
    accumulate=st.integers(1, 4),
    amp=st.sampled_from(["off", "fp16"]),
    clip=st.sampled_from([0.0, 0.05]),
)
def test_a_step_is_that_of_one_batch_of_all_rows_however_many_each_batch_has(
    sizes: list[int], accumulate: int, amp: str, clip: float
) -> None:
    toy, expected = Toy(), Toy()
    stepper = stepper_of(toy, len(sizes), amp, accumulate=accumulate, clip_grad=clip)
    batches = [drawn(size) for size in sizes]
    for number, (rows, labels) in enumerate(batches):
        if len(rows):
            stepper.learn(toy.loss(rows, labels), len(rows))
        stepper.end_batch(number)
    for start in range(0, len(sizes), accumulate):
        if together := [batch for batch in batches[start : start + accumulate] if len(batch[0])]:
            stepped_by_hand(expected, together, 0.3, clip)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(toy.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert stepper.step == -(-len(sizes) // accumulate)


def test_without_accumulation_the_gradients_are_the_losses_to_the_bit() -> None:
    toy, plain = Toy(), Toy()
    stepper = stepper_of(toy, 9)
    for rows in (3, 7, 1):
        toy.zero_grad()
        plain.zero_grad()
        stepper.learn(toy.loss(*drawn(rows)), rows)
        plain.loss(*drawn(rows)).backward()  # type: ignore[no-untyped-call]
        for one, other in zip(toy.parameters(), plain.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad)


def test_steps_are_due_after_each_group_of_batches_and_at_the_end_of_an_epoch() -> None:
    stepper = stepper_of(Toy(), 5, accumulate=2)
    assert [stepper.end_batch(number % 5) for number in range(10)] == [False, True, False, True, True] * 2
    assert stepper.step == 6
    assert stepper.steps == 3 * 10


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_without_rows_nothing_moves_though_the_rate_goes_on(amp: str) -> None:
    toy = Toy()
    stepper = stepper_of(toy, 4, amp, name="adamw", arguments={}, weight_decay=0.5)
    stepper.learn(toy.loss(*drawn(4)), 4)
    assert stepper.end_batch(0)
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    assert stepper.end_batch(1)
    assert all(torch.equal(value, toy.state_dict()[name]) for name, value in before.items())
    assert stepper.step == 2


def test_the_rate_is_the_schedules_at_each_step() -> None:
    toy = Toy()
    config = {"name": "step", "epochs": 3, "every": 1, "factor": 0.5, "warmup": 0}
    recipe = Recipe.model_validate({"optim": {"lr": 0.2, "accumulate": 2}, "schedule": config})
    stepper = Stepper(recipe, cast("Classifier", toy), torch.amp.GradScaler("cpu", enabled=False), 4)
    rates = [stepper.lr for number in range(12) if stepper.end_batch(number % 4)]
    np.testing.assert_allclose(rates, [0.2, 0.2, 0.1, 0.1, 0.05, 0.05])
