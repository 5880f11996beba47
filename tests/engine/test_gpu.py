"""What a GPU must do as a CPU does; `tools/gpu_check.sh` runs these. CUDA_TESTS=cpu rehearses them without a GPU."""

import contextlib
import os

import pytest
import torch

from mdistiller.dataset import Data, Loader
from mdistiller.distillers import DISTILLERS
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.engine.precision import Precision
from mdistiller.engine.run import assemble
from mdistiller.engine.trainer import Trainer
from mdistiller.models import build_model
from tests.engine.conftest import TINY
from tools.benchmark.workload import random_images

DEVICE = os.environ.get("CUDA_TESTS", "cuda")
IS_CUDA = DEVICE != "cpu"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(IS_CUDA and not torch.cuda.is_available(), reason="needs a GPU"),
]
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WAITS = {"KDSVD"}  # for its decomposition
DRAWS = {"CRD"}  # by a generator of the device
PRECISIONS = ("none", "bf16", "fp16")


def trainer_of(
    method, device=DEVICE, dtype=torch.float32, batch=8, batches=3, augment="weak", teacher="resnet14", **solver
):
    """A trainer of `method`, resnet14 to resnet8, whose networks and images are the same on every device."""
    cfg = CFG.clone()
    cfg.DISTILLER.TYPE, cfg.CRD.NCE.K = method, 4
    cfg.SOLVER.update(solver)
    torch.manual_seed(0)
    student, teacher = (build_model("cifar100", name, 100).to(dtype) for name in ("resnet8", teacher))
    image_set = random_images(batch * batches).to(device)
    loader = Loader(image_set, batch, *STATISTICS, augment)
    data = Data(loader, None, image_set.classes, 32, *STATISTICS)
    distiller = assemble(cfg, student, teacher if DISTILLERS[method].needs_teacher else None, loader)
    return Trainer(cfg, distiller.train(), data, None, None, {})


def views_of(method):
    return "two-view" if method == "MLKD" else "weak"


@contextlib.contextmanager
def no_waiting():
    """Within it, what makes the host wait for the GPU raises."""
    if IS_CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if IS_CUDA:
            torch.cuda.set_sync_debug_mode("default")


def losses_of(trainer, steps):
    """The sums of the losses of `steps` steps, without waiting for one of them."""
    found, batches = [], list(trainer.data.train)
    with contextlib.nullcontext() if type(trainer.distiller).__name__ in WAITS else no_waiting():
        for step in range(steps):
            batch = batches[step % len(batches)]
            with trainer.precision:
                logits, losses = trainer.distiller(**batch, epoch=1)
            trainer.optimizer.backward(losses)
            trainer.optimizer.step()
            trainer.meter.update(losses, logits, batch["target"])
            found.append(sum(losses.values()).detach())
    return torch.stack(found).double().cpu()


@pytest.mark.parametrize("amp", PRECISIONS)
@pytest.mark.parametrize("method", DISTILLERS)
def test_three_steps_are_finite_and_wait_for_nothing(method, amp):
    assert losses_of(trainer_of(method, augment=views_of(method), AMP=amp), 3).isfinite().all()


@pytest.mark.parametrize("method", [name for name in DISTILLERS if name not in DRAWS])
def test_losses_and_gradients_are_those_of_a_cpu(method):
    found = []
    for device in ("cpu", DEVICE):
        trainer = trainer_of(method, device, torch.float64, batches=1, augment="none")
        batch = {k: v.double() if v.is_floating_point() else v for k, v in next(iter(trainer.data.train)).items()}
        trainer.distiller.double()
        _, losses = trainer.distiller(**batch, image_weak=batch["image"], image_strong=batch["image"], epoch=1)
        sum(losses.values()).backward()
        gradients = [p.grad.norm() for p in trainer.distiller.student.parameters() if p.grad is not None]
        found.append(torch.stack([sum(losses.values()).detach(), *gradients]).cpu())
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["KD", "SKD", "FITNET", "OFD", "REVIEWKD", "MLKD"])
def test_compiled_training_is_training(method):
    eager, compiled = (
        losses_of(trainer_of(method, augment=views_of(method), batches=4, COMPILE=compiles), 12)
        for compiles in (False, True)
    )
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compiles", [False, True])
def test_two_gradients_a_step(compiles):
    assert losses_of(trainer_of("KD", TRAINER="dot", COMPILE=compiles), 3).isfinite().all()


def test_a_smaller_last_batch_and_an_evaluation_run_beside_what_is_compiled():
    trainer = trainer_of("KD", COMPILE=True)
    trainer.distiller.student.eval()(torch.zeros(5, 3, 32, 32, device=DEVICE))
    trainer.distiller.train()
    losses_of(trainer, 2)
    batch = next(iter(trainer.data.train))
    part = {name: values[:3] for name, values in batch.items()}
    assert all(loss.isfinite() for loss in trainer.distiller(**part, epoch=1)[1].values())


def test_fp16_goes_on_after_gradients_that_overflow():
    trainer = trainer_of("KD", AMP="fp16")
    trainer.optimizer.scaler = torch.amp.GradScaler(torch.device(DEVICE).type, init_scale=2.0**30)
    assert losses_of(trainer, 50).isfinite().all() and trainer.optimizer.scaler.get_scale() < 2.0**30


@pytest.mark.skipif(not IS_CUDA, reason="counts CUDA's memory")
@pytest.mark.parametrize("method", ["KD", "CRD", "REVIEWKD"])
def test_memory_stays_level_over_two_hundred_steps(method):
    trainer = trainer_of(method)
    losses_of(trainer, 50)
    level = torch.cuda.memory_allocated()
    losses_of(trainer, 150)
    assert torch.cuda.memory_allocated() <= level + 2**20


def test_losses_are_in_float32_under_half_precision():
    trainer = trainer_of("SKD")
    with Precision(CFG.SOLVER.clone(), torch.device(DEVICE)):
        _, losses = trainer.distiller(**next(iter(trainer.data.train)), epoch=1)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def weights_of(script, *arguments):
    flags = "--selected_model", "resnet8", "--device", DEVICE
    assert script(training_main, *flags, *TINY, *arguments).status == 0, script.err
    newest = max(script.utils.glob("model_pth/*/last.pth"), key=os.path.getmtime)
    return torch.load(newest, weights_only=True, map_location="cpu")["model"]


def test_a_deterministic_run_repeats_itself_bit_for_bit(script):
    pairs = ("SOLVER.DETERMINISTIC", "True") if IS_CUDA else ()
    first, second = (weights_of(script, *pairs) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_a_gpu_resumes_on_a_cpu_in_another_layout(script):
    arguments = [*"--selected_student resnet8 --selected_teacher resnet8 --distiller CRD CRD.NCE.K 4".split(), *TINY]
    assert script(distillation_main, *arguments, "--device", DEVICE).status == 0, script.err
    more = "SOLVER.EPOCHS 3 SOLVER.CHANNELS_LAST False".split()
    assert script(distillation_main, "--resume", *more, "--device", "cpu").status == 0, script.err
