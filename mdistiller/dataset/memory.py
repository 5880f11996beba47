"""How much memory a data set may take."""

import math
from pathlib import Path

import torch


def available_memory(device: torch.device | str) -> float:
    """Bytes that are free on `device`; infinity on a system that does not tell."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf
