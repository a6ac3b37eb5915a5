"""Tests of mixing: what a mixer is given, and that none changes nothing."""

from __future__ import annotations

import torch

from raymask.config.components import MixConfig
from raymask.training.mixers import build_mixer


def test_none_gives_back_what_it_is_given() -> None:
    inputs, targets = torch.randn(3, 2), {"mask": torch.tensor([0, 1, 2])}
    mixed, mixed_targets = build_mixer(MixConfig())(inputs, targets)
    assert mixed is inputs
    assert mixed_targets["mask"] is targets["mask"]
