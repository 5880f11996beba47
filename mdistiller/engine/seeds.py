"""The global generators, from which networks' initialisation and a user's own distiller draw."""

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generators_state() -> dict[str, Any]:
    """The state of all of them, in types that a weight file may hold."""
    numpy: Any = np.random.get_state(legacy=False)
    key, position = numpy["state"]["key"], numpy["state"]["pos"]
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {"key": torch.from_numpy(key.astype(np.int64)), "pos": position}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_generators_state(state: dict[str, Any]) -> None:
    """Continue from a `generators_state`; CUDA's only where as many devices are there."""
    random.setstate(state["python"])
    key, position = state["numpy"]["state"]["key"], state["numpy"]["state"]["pos"]
    np.random.set_state({**state["numpy"], "state": {"key": key.numpy().astype(np.uint32), "pos": position}})
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
