"""What a process does once before it computes with torch."""

from __future__ import annotations

import ctypes

import torch

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def prepare_process(threads: int) -> torch.device:
    """Sets torch's threads and precision, and returns the device to compute on: the GPU that Ray gave, or the CPU."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    if torch.cuda.is_available():
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


def keep_freed_memory() -> bool:
    """Makes this process keep what tensors free for the next ones; returns whether the C library could be told so.

    By default glibc hands every large block back to the kernel, and each activation of a network on a CPU is mapped and zeroed
    page by page again: that took more than half of a training step of mobilenetv2_100 at 160 px (38 ms an image, 17 without).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20))
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(taken)
