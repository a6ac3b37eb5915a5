"""What a process does once before it computes with torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from raymask.config.recipe import Recipe


def prepare_process(threads: int) -> torch.device:
    """Sets torch's threads and precision, and returns the device to compute on: the GPU that Ray gave, or the CPU."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_torch(seed: int, device: torch.device) -> None:
    """Decides what is drawn from now on on a device and on the CPU.

    `torch.manual_seed` formats three stacks for the sake of devices that are not there, at 0.2 ms a call and more.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def mixed_precision(
    recipe: Recipe, device: torch.device
) -> tuple[Callable[[], AbstractContextManager[Any]], torch.amp.GradScaler]:
    """The autocast context and gradient scaler of a recipe on a device.

    `auto` is bf16 where the device computes in it, else fp16 on a GPU and off on a CPU.
    """
    chosen = recipe.amp
    if chosen == "auto":
        chosen = "bf16" if bf16_is_native(device) else "fp16" if device.type == "cuda" else "off"
    scaler = torch.amp.GradScaler(device.type, enabled=chosen == "fp16")
    if chosen == "off":
        return nullcontext, scaler
    dtype = torch.bfloat16 if chosen == "bf16" else torch.float16
    return lambda: torch.autocast(device.type, dtype=dtype), scaler


def bf16_is_native(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: a GPU from Ampere on, a CPU with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What the autocast that is on here computes in on a device; None where there is none."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
