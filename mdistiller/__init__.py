"""Knowledge distillation for image classifiers; the official implementation of Streamlined Knowledge Distillation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdistiller.engine.students import load_student

__version__ = "0.1.0"
__all__ = ["load_student"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used: `import mdistiller` alone stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mdistiller.engine import students

    return getattr(students, name)
