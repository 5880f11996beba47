"""What the settings of SOLVER mean together: the schedule of the learning rate, and which cannot be."""

import math
from typing import Any

from mdistiller.errors import UserError

TRAINERS = ("base", "crd", "dot", "crd_dot")  # MDistiller's names; each takes every method here
TWO_GRADIENTS = ("dot", "crd_dot")
TASK_LOSS = "loss_ce"
OPTIMIZERS, SCHEDULERS = ("SGD", "AdamW"), ("step", "cosine")
BETAS = 0.9, 0.999  # of AdamW


def learning_rate(solver: Any, epoch: int) -> float:
    """Learning rate of epoch `epoch` (from 1).

    SCHEDULER step: LR, times LR_DECAY_RATE after each of LR_DECAY_STAGES. SCHEDULER cosine: half of LR, times
    1 + cos(π (epoch − 1) / EPOCHS) (Loshchilov and Hutter, SGDR, ICLR 2017). In the first WARMUP_EPOCHS, W of them, it
    is LR · epoch / (W + 1).
    """
    if epoch <= solver.WARMUP_EPOCHS:
        return solver.LR * epoch / (solver.WARMUP_EPOCHS + 1)
    if solver.SCHEDULER == "cosine":
        return solver.LR * (1 + math.cos(math.pi * (epoch - 1) / solver.EPOCHS)) / 2
    return solver.LR * solver.LR_DECAY_RATE ** sum(epoch > stage for stage in solver.LR_DECAY_STAGES)


def initial_solver(solver: Any, initial: Any) -> Any:
    """`solver` as it is in the initial stage of a method, by its section INITIAL, whose LR 0 is that of SOLVER."""
    own = solver.clone()
    own.defrost()
    own.EPOCHS, own.LR, own.LR_DECAY_STAGES = initial.EPOCHS, initial.LR or solver.LR, initial.LR_DECAY_STAGES
    own.SCHEDULER, own.WARMUP_EPOCHS, own.TRAINER = "step", 0, "base"
    own.freeze()
    return own


def check_solver(solver: Any) -> None:
    """Raise UserError for settings that cannot be together, or of which one takes the effect from another."""
    if solver.TRAINER in TWO_GRADIENTS:
        if solver.AMP == "fp16":
            raise UserError("SOLVER.AMP fp16 scales one loss and SOLVER.TRAINER dot has two; type SOLVER.AMP bf16")
        if solver.CLIP_GRAD > 0:
            raise UserError("SOLVER.CLIP_GRAD clips one gradient and SOLVER.TRAINER dot has two; leave one out")
        if solver.NESTEROV:
            raise UserError("SOLVER.NESTEROV has no effect with SOLVER.TRAINER dot's own momenta; leave one out")
        most = min(solver.MOMENTUM, 1 - solver.MOMENTUM)
        if solver.DOT.DELTA > 0 and solver.DOT.DELTA >= most:
            raise UserError(
                f"SOLVER.DOT.DELTA is {solver.DOT.DELTA:g}; expected 0 or a number below {most:g}, as it is taken from "
                f"and added to SOLVER.MOMENTUM {solver.MOMENTUM:g}, and both must be from 0 to below 1"
            )
    if solver.TYPE == "AdamW" and (solver.TRAINER in TWO_GRADIENTS or solver.NESTEROV):
        other = "NESTEROV" if solver.NESTEROV else f"TRAINER {solver.TRAINER}"
        raise UserError(f"SOLVER.TYPE AdamW has moments of its own, without SOLVER.{other}; leave one out")
    if solver.ACCUMULATE > 1 and solver.SKIP_NONFINITE:
        raise UserError("SOLVER.SKIP_NONFINITE skips a batch and SOLVER.ACCUMULATE joins several; leave one out")
    if solver.WARMUP_EPOCHS >= solver.EPOCHS:
        raise UserError(
            f"SOLVER.WARMUP_EPOCHS is {solver.WARMUP_EPOCHS}; expected fewer than the {solver.EPOCHS} of SOLVER.EPOCHS"
        )
    if solver.SKIP_NONFINITE and solver.AMP == "fp16":
        raise UserError("SOLVER.SKIP_NONFINITE has no effect with SOLVER.AMP fp16, which skips by itself; leave it out")
    if solver.SYNC_BN and (solver.FREEZE_BN or solver.COMPILE):
        other = "FREEZE_BN" if solver.FREEZE_BN else "COMPILE"
        raise UserError(f"SOLVER.SYNC_BN and SOLVER.{other} cannot be together; leave one out")
    if solver.NESTEROV and solver.MOMENTUM == 0:
        raise UserError("SOLVER.NESTEROV has no effect with SOLVER.MOMENTUM 0; leave one out")
    if solver.NO_DECAY_NORMS and solver.WEIGHT_DECAY == 0:
        raise UserError("SOLVER.NO_DECAY_NORMS has no effect with SOLVER.WEIGHT_DECAY 0; leave one out")
