"""The stages of a training: the initial one that some methods have, and the student's own."""

from collections.abc import Callable
from typing import Any

import torch
from yacs.config import CfgNode as CN

from mdistiller.distillers import Distiller
from mdistiller.distillers._initial import StagedDistiller

from .distributed import Processes
from .optim import Minimiser, build_minimiser
from .precision import gradient_scaler
from .solver import initial_solver


def initial_epochs(cfg: CN, method: type[Distiller]) -> int:
    """How many epochs of an initial stage come before the student's own."""
    return cfg[method.section()].INITIAL.EPOCHS if issubclass(method, StagedDistiller) else 0


def solver_of(cfg: CN, method: type[Distiller], is_initial: bool) -> CN:
    """The section SOLVER as it is in a stage."""
    return initial_solver(cfg.SOLVER, cfg[method.section()].INITIAL) if is_initial else cfg.SOLVER


def epoch_of(number: int, is_initial: bool) -> str:
    """The epoch `number` of a stage, in words."""
    return f"{'initial ' if is_initial else ''}epoch {number}"


def enter(
    distiller: Distiller, solver: CN, is_initial: bool, device: torch.device, processes: Processes
) -> tuple[Minimiser, Callable[..., Any]]:
    """Have `distiller` be in a stage; returns its optimiser, and what to call with a batch."""
    parameters = distiller.get_learnable_parameters()
    if isinstance(distiller, StagedDistiller):
        distiller.set_initial(is_initial)
        parameters = distiller.get_initial_parameters() if is_initial else parameters
    optimizer = build_minimiser(solver, parameters, gradient_scaler(solver, device))
    is_plain = optimizer.passes == 1 and not (distiller.takes_new_sections or is_initial)
    optimizer.average = None if is_plain else processes.average
    return optimizer, processes.wrap(distiller, is_plain)
