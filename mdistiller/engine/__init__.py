"""Config, training, evaluation, checkpoints and logs: what ties models, distillers and data together."""

from typing import Any


def __getattr__(name: str) -> Any:
    """MDistiller's `trainer_dict`, imported when it is asked for."""
    if name == "trainer_dict":
        from .published import trainer_dict

        return trainer_dict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
