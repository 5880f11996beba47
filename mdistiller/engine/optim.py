"""Optimisers, which minimise a dict of losses, and the schedule of the learning rate."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch_config

from mdistiller.distillers._common import total
from mdistiller.errors import UserError

TRAINERS = ("base", "crd", "dot", "crd_dot")  # MDistiller's names; each takes every method here
TWO_GRADIENTS = ("dot", "crd_dot")
TASK_LOSS = "loss_ce"


def learning_rate(solver: Any, epoch: int) -> float:
    """Learning rate of epoch `epoch` (from 1): LR, times LR_DECAY_RATE after each of LR_DECAY_STAGES."""
    return solver.LR * solver.LR_DECAY_RATE ** sum(epoch > stage for stage in solver.LR_DECAY_STAGES)


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum.

    Fused: one kernel for all parameters, which also skips a step of fp16 without asking the device. Momentum starts at
    zero, since that kernel would leave it undefined where the first step is skipped.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        super().__init__(parameters, lr, momentum, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)


class DOT(torch.optim.Optimizer):
    """SGD with a momentum of its own for the task loss and for the distillation losses.

    v_ce ← (μ − Δ) v_ce + g_ce and v_kd ← (μ + Δ) v_kd + g_kd; θ ← θ − lr (v_ce + v_kd). `task_gradients` holds g_ce by
    parameter, `grad` g_kd; weight decay belongs to the task. A parameter that one loss alone reaches has that loss's
    velocity alone, with momentum μ; where it is the distillation's, weight decay joins from its second step on, as
    released. Source: Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, delta: float
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "delta": delta})
        self.task_gradients: dict[nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            momentum, decay = group["momentum"], group["weight_decay"]
            for p in group["params"]:
                gradients = {"v_ce": self.task_gradients.get(p), "v_kd": p.grad}
                reached = {name: gradient for name, gradient in gradients.items() if gradient is not None}
                delta = group["delta"] if len(reached) == 2 else 0.0
                state = self.state[p]
                for name, gradient in reached.items():
                    is_first = name not in state
                    velocity = state.setdefault(name, torch.zeros_like(p))
                    velocity.mul_(momentum + (delta if name == "v_kd" else -delta)).add_(gradient)
                    if name == "v_ce" or (len(reached) == 1 and not is_first):
                        velocity.add_(p, alpha=decay)
                    p.sub_(velocity, alpha=group["lr"])


class Minimiser:
    """Minimises the sum of a dict of losses, {name: scalar}: `backward`, then `step`.

    They are apart so that what changes gradients can go between. scaler: keeps gradients of fp16 from becoming 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None):
        self.optimizer, self.scaler = optimizer, scaler

    def backward(self, losses: dict[str, torch.Tensor]) -> None:
        """Leave the gradient of the sum of `losses`, and of nothing before, in the parameters."""
        self.optimizer.zero_grad()
        loss = total(losses.values())
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self) -> None:
        """Change the parameters by their gradients."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on beside parameters and gradients."""
        scaler = self.scaler.state_dict() if self.scaler else None
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        for p, values in self.optimizer.state.items():
            for name, value in values.items():
                # A buffer in another layout than its parameter's makes the fused kernel silently wrong.
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    values[name] = torch.empty_like(p).copy_(value)
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])


class TwoGradientMinimiser(Minimiser):
    """Minimises for DOT, which takes the gradient of the loss called `loss_ce` apart from that of all others."""

    optimizer: DOT

    def __init__(self, optimizer: DOT):
        super().__init__(optimizer)
        # The second of two backward passes finds what it needs, even in a network that is compiled.
        functorch_config.donated_buffer = False

    def backward(self, losses: dict[str, torch.Tensor]) -> None:
        if TASK_LOSS not in losses:
            raise UserError(f"SOLVER.TRAINER dot needs a loss called {TASK_LOSS!r}, not only {', '.join(losses)}")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad()
        losses[TASK_LOSS].backward(retain_graph=True)
        self.optimizer.task_gradients = {p: p.grad for p in parameters if p.grad is not None}
        self.optimizer.zero_grad()
        if distillation := [loss for name, loss in losses.items() if name != TASK_LOSS]:
            total(distillation).backward()


def build_minimiser(
    solver: Any, parameters: Iterable[nn.Parameter], scaler: torch.amp.GradScaler | None = None
) -> Minimiser:
    """The optimiser that SOLVER.TRAINER names, by the rest of `solver`."""
    common = parameters, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY
    if solver.TRAINER in TWO_GRADIENTS:
        return TwoGradientMinimiser(DOT(*common, solver.DOT.DELTA))
    return Minimiser(SGD(*common), scaler)
