"""Knowledge distillation for image classifiers; the official implementation of Streamlined Knowledge Distillation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdistiller.dataset import Data, build_data
    from mdistiller.distillers import Distiller, build_distiller
    from mdistiller.engine.api import distill, evaluate, make_config, start_run
    from mdistiller.engine.cfg import CFG
    from mdistiller.engine.metrics import Result
    from mdistiller.engine.students import load_student
    from mdistiller.engine.trainer import Trainer
    from mdistiller.errors import UserError
    from mdistiller.models import build_model

__version__ = "0.1.0"
__all__ = [
    "CFG",
    "Data",
    "Distiller",
    "Result",
    "Trainer",
    "UserError",
    "build_data",
    "build_distiller",
    "build_model",
    "distill",
    "evaluate",
    "load_student",
    "make_config",
    "start_run",
]

_HOMES = {
    "dataset": ("Data", "build_data"),
    "distillers": ("Distiller", "build_distiller"),
    "engine.cfg": ("CFG",),
    "engine.api": ("distill", "evaluate", "make_config", "start_run"),
    "engine.metrics": ("Result",),
    "engine.students": ("load_student",),
    "engine.trainer": ("Trainer",),
    "errors": ("UserError",),
    "models": ("build_model",),
}


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used: `import mdistiller` alone stays light."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
