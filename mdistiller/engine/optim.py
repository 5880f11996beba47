"""Optimisers, which minimise a dict of losses, and averages of what they reach."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch_config
from torch.optim.optimizer import ParamsT
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mdistiller.distillers._common import total
from mdistiller.errors import UserError

from .solver import BETAS, TASK_LOSS, TWO_GRADIENTS


def parameter_groups(parameters: Iterable[nn.Parameter], no_decay_norms: bool) -> list[dict[str, Any]]:
    """All parameters as one group; where `no_decay_norms`, norms and biases as a second one, without weight decay."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not no_decay_norms:
        return [{"params": parameters}]
    weights, rest = ([p for p in parameters if (p.ndim > 1) is is_weight] for is_weight in (True, False))
    groups = {"params": weights}, {"params": rest, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum.

    Fused: one kernel for all parameters, which also skips a step of fp16 without asking the device. Momentum starts at
    zero, since that kernel would leave it undefined where the first step is skipped.
    """

    def __init__(self, parameters: ParamsT, lr: float, momentum: float, weight_decay: float, nesterov: bool = False):
        super().__init__(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)
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

    def __init__(self, parameters: ParamsT, lr: float, momentum: float, weight_decay: float, delta: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "delta": delta})
        self.task_gradients: dict[nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            task = {p: self.task_gradients[p] for p in group["params"] if p in self.task_gradients}
            distillation = {p: p.grad for p in group["params"] if p.grad is not None}
            for name, own, other, sign in ("v_ce", task, distillation, -1), ("v_kd", distillation, task, 1):
                if not own:
                    continue
                decayed = [p for p in own if name == "v_ce" or (p not in other and name in self.state[p])]
                velocity_of = {p: self.state[p].setdefault(name, torch.zeros_like(p)) for p in own}
                velocities = list(velocity_of.values())
                momenta = [group["momentum"] + (sign * group["delta"] if p in other else 0.0) for p in own]
                torch._foreach_mul_(velocities, momenta)
                torch._foreach_add_(velocities, list(own.values()))
                if decayed:
                    torch._foreach_add_([velocity_of[p] for p in decayed], decayed, alpha=group["weight_decay"])
                torch._foreach_add_(list(own), velocities, alpha=-group["lr"])


class Minimiser:
    """Minimises the sum of a dict of losses, {name: scalar}: `backward`, then `step`.

    They are apart so that what changes gradients can go between. scaler: keeps gradients of fp16 from becoming 0;
    max_norm: of the gradient of all parameters, which is scaled down to it; 0: any. skips: how many steps in a row
    change nothing, where their gradient is not finite, before one does; asking for it waits for the device.
    passes: of the backward pass, a step; average: makes the gradients of several processes one, where they are not yet.
    """

    passes = 1

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
        max_norm: float = 0.0,
        skips: int = 0,
    ):
        self.optimizer, self.scaler, self.max_norm, self.skips = optimizer, scaler, max_norm, skips
        self.skipped_in_a_row = 0
        self.is_pending = False  # whether there are gradients of which no step has been made
        self.average: Callable[..., list[Any]] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def backward(self, losses: dict[str, torch.Tensor]) -> None:
        """Add the gradient of the sum of `losses` to what `backward` has left in the parameters since the last step."""
        self.is_pending = True
        self.run_backward(losses)
        if self.average is not None:  # of which what earlier batches have left is the same in all processes
            found, like = self.pending(), self.parameters
            averaged = self.average([gradient for group in found for gradient in group], len(found) * like)
            self.set_pending([averaged[i : i + len(like)] for i in range(0, len(averaged), len(like))])

    def run_backward(self, losses: dict[str, torch.Tensor]) -> None:
        loss = total(losses.values())
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def gradients(self) -> list[torch.Tensor]:
        """All that `backward` has left."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def step(self) -> torch.Tensor | None:
        """Change the parameters by their gradients, and clear these.

        Returns the norm of the gradient, a scalar of which a scaler sees to itself that it is finite where it is used
        (then 0); or None where it was not finite and the step was skipped.
        """
        if self.scaler is not None and self.max_norm > 0:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(self.gradients())
        if self.skipped_in_a_row < self.skips and not norm.isfinite():
            self.skipped_in_a_row += 1
            self.clear()
            return None
        self.skipped_in_a_row = 0
        if self.max_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.max_norm, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            norm = torch.zeros_like(norm)
        self.clear()
        return norm

    def clear(self) -> None:
        self.optimizer.zero_grad()
        self.is_pending = False

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
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler,
            "skipped_in_a_row": self.skipped_in_a_row,
            "gradients": self.pending() if self.is_pending else [],
        }

    def pending(self) -> list[list[torch.Tensor | None]]:
        """Gradients of which no step has been made, by parameter."""
        return [[p.grad for p in self.parameters]]

    def set_pending(self, gradients: list[list[torch.Tensor | None]]) -> None:
        """Go on from `pending`."""
        self.is_pending = True
        for p, gradient in zip(self.parameters, gradients[0], strict=True):
            p.grad = None if gradient is None else torch.empty_like(p).copy_(gradient)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.optimizer.load_state_dict(state["optimizer"])
        for p, values in self.optimizer.state.items():
            for name, value in values.items():
                # A buffer in another layout than its parameter's makes the fused kernel silently wrong.
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    values[name] = torch.empty_like(p).copy_(value)
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        if state.get("gradients"):
            self.set_pending(state["gradients"])


class TwoGradientMinimiser(Minimiser):
    """Minimises for DOT, which takes the gradient of the loss called `loss_ce` apart from that of all others."""

    optimizer: DOT
    passes = 2

    def __init__(self, optimizer: DOT, skips: int = 0):
        super().__init__(optimizer, skips=skips)
        # The second of two backward passes finds what it needs, even in a network that is compiled.
        functorch_config.donated_buffer = False

    def run_backward(self, losses: dict[str, torch.Tensor]) -> None:
        if TASK_LOSS not in losses:
            raise UserError(f"SOLVER.TRAINER dot needs a loss called {TASK_LOSS!r}, not only {', '.join(losses)}")
        active = {name: loss for name, loss in losses.items() if loss.requires_grad}  # a number is a loss, too
        found: Iterable[torch.Tensor | None] = ()
        if TASK_LOSS in active:
            found = torch.autograd.grad(active[TASK_LOSS], self.parameters, retain_graph=True, allow_unused=True)
        collected = self.optimizer.task_gradients
        for p, gradient in zip(self.parameters, found, strict=False):
            if gradient is not None:
                collected[p] = collected[p] + gradient if p in collected else gradient
        if distillation := [loss for name, loss in active.items() if name != TASK_LOSS]:
            total(distillation).backward()

    def gradients(self) -> list[torch.Tensor]:
        return [*super().gradients(), *self.optimizer.task_gradients.values()]

    def clear(self) -> None:
        super().clear()
        self.optimizer.task_gradients = {}

    def pending(self) -> list[list[torch.Tensor | None]]:
        return [*super().pending(), [self.optimizer.task_gradients.get(p) for p in self.parameters]]

    def set_pending(self, gradients: list[list[torch.Tensor | None]]) -> None:
        super().set_pending(gradients)
        found = zip(self.parameters, gradients[1], strict=True)
        self.optimizer.task_gradients = {p: torch.empty_like(p).copy_(g) for p, g in found if g is not None}


def build_minimiser(
    solver: Any, parameters: Iterable[nn.Parameter], scaler: torch.amp.GradScaler | None = None
) -> Minimiser:
    """The optimiser that SOLVER.TRAINER names, by the rest of `solver`."""
    groups = parameter_groups(parameters, solver.NO_DECAY_NORMS)
    if solver.TYPE == "AdamW":
        adam = torch.optim.AdamW(groups, solver.LR, BETAS, weight_decay=solver.WEIGHT_DECAY, fused=True)
        return Minimiser(adam, scaler, solver.CLIP_GRAD, solver.SKIP_NONFINITE)
    common = groups, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY
    if solver.TRAINER in TWO_GRADIENTS:
        return TwoGradientMinimiser(DOT(*common, solver.DOT.DELTA), solver.SKIP_NONFINITE)
    return Minimiser(SGD(*common, solver.NESTEROV), scaler, solver.CLIP_GRAD, solver.SKIP_NONFINITE)


class WeightAverage(AveragedModel):
    """The exponential moving average of a network's weights and statistics: a ← decay · a + (1 − decay) · w a step."""

    module: nn.Module

    def __init__(self, network: nn.Module, decay: float):
        super().__init__(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.module.requires_grad_(False)
        vars(self.module).pop("forward", None)  # compiled, it would be that of `network`
