"""What a process does once before it computes with torch."""

from __future__ import annotations

import torch


def prepare_process(threads: int) -> torch.device:
    """Sets torch's threads and precision, and returns the device to compute on: the GPU that Ray gave, or the CPU."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
