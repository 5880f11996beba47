"""Optimisers: each takes a dict of losses and makes one step on their sum."""

import torch
from torch._functorch import config as functorch_config

from mdistiller.errors import UserError

TRAINERS = ("base", "crd", "dot", "crd_dot")  # MDistiller's names; CRD needs no trainer of its own here
TASK_LOSS = "loss_ce"


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum, on the sum of the losses.

    Fused: one kernel for all parameters, which also skips a step of fp16 without asking the device. Momentum starts at
    zero, since that kernel would leave it undefined where the first step is skipped.
    """

    def __init__(self, parameters, lr: float, momentum: float, weight_decay: float):
        super().__init__(parameters, lr, momentum, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    def minimise(self, losses: dict, scaler: torch.amp.GradScaler | None = None) -> None:
        """One step. losses: {name: scalar}; scaler: for gradients in fp16."""
        self.zero_grad()
        loss = sum(losses.values())
        if scaler is None:
            loss.backward()
            self.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(self)
            scaler.update()


class DOT(torch.optim.Optimizer):
    """SGD with a momentum of its own for the task loss and for the distillation losses.

    v_ce ← (μ − Δ) v_ce + g_ce and v_kd ← (μ + Δ) v_kd + g_kd; θ ← θ − lr (v_ce + v_kd). The task is the loss called
    `loss_ce`, and weight decay belongs to it. Source: Zhao et al., DOT: A Distillation-Oriented Trainer, ICCV 2023.
    """

    def __init__(self, parameters, lr: float, momentum: float, weight_decay: float, delta: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "delta": delta})
        # The second of two backward passes finds what it needs, even in a network that is compiled.
        functorch_config.donated_buffer = False

    def minimise(self, losses: dict, scaler: None = None) -> None:
        """One step. losses: {name: scalar}, `loss_ce` among them; two losses cannot share a scaler."""
        if TASK_LOSS not in losses:
            raise UserError(f"SOLVER.TRAINER dot needs a loss called {TASK_LOSS!r}, not only {', '.join(losses)}")
        self.zero_grad()
        losses[TASK_LOSS].backward(retain_graph=True)
        task = {p: p.grad for p in self.parameters_with_gradient()}
        self.zero_grad()
        distillation = [loss for name, loss in losses.items() if name != TASK_LOSS]
        if distillation:
            sum(distillation).backward()
        self.update(task)

    def parameters_with_gradient(self):
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def update(self, task_gradients: dict) -> None:
        for group in self.param_groups:
            task_momentum, kd_momentum = group["momentum"] - group["delta"], group["momentum"] + group["delta"]
            for p in group["params"]:
                if p.grad is None and p not in task_gradients:
                    continue
                state = self.state[p]
                if not state:
                    state["v_ce"], state["v_kd"] = torch.zeros_like(p), torch.zeros_like(p)
                state["v_ce"].mul_(task_momentum).add_(p, alpha=group["weight_decay"])
                state["v_kd"].mul_(kd_momentum)
                if p in task_gradients:
                    state["v_ce"].add_(task_gradients[p])
                if p.grad is not None:
                    state["v_kd"].add_(p.grad)
                p.sub_(state["v_ce"] + state["v_kd"], alpha=group["lr"])


def build_optimizer(solver, parameters):
    """The optimiser that SOLVER.TRAINER names, by the rest of `solver`."""
    if solver.TRAINER in ("dot", "crd_dot"):
        return DOT(parameters, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY, solver.DOT.DELTA)
    return SGD(parameters, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
