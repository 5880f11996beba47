"""Parts of a student that stay as they are while the rest is trained."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mdistiller.distillers import Distiller
from mdistiller.errors import UserError, nearest


def freeze(student: nn.Module, beginnings: Sequence[str], name: str) -> None:
    """Take the gradients from the weights of `student` whose names begin with one of `beginnings`.

    Raises UserError where one is no beginning, or where nothing is left to train.
    """
    names = [key for key, _ in student.named_parameters()]
    for each in beginnings:
        if not any(is_below(key, each) for key in names):
            parts = sorted({key.split(".")[0] for key in names})
            raise UserError(
                f"DISTILLER.FREEZE has {each!r}, and no weight of {name} begins so{nearest(each, parts)}; "
                f"expected some of {', '.join(parts)}"
            )
    for key, parameter in student.named_parameters():
        parameter.requires_grad_(not any(is_below(key, each) for each in beginnings))
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise UserError("DISTILLER.FREEZE freezes all of the student; leave a beginning out")


def is_below(key: str, beginning: str) -> bool:
    return key == beginning or key.startswith(beginning if beginning.endswith(".") else f"{beginning}.")


def set_train_mode(distiller: Distiller, cfg: Any) -> None:
    """Train mode, but for batch norms whose statistics stay: all with SOLVER.FREEZE_BN, else those of frozen parts."""
    distiller.train()
    for name, module in distiller.named_modules():
        key = name.removeprefix("student.")
        is_frozen = key != name and any(is_below(key, each) for each in cfg.DISTILLER.FREEZE)
        if isinstance(module, _NormBase) and (cfg.SOLVER.FREEZE_BN or is_frozen):
            module.eval()
