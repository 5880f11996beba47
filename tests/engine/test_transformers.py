"""Vision transformers by their recipe: they learn, from a teacher too, and go on where they were stopped."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.engine.cli import distillation_main, evaluation_main
from mdistiller.engine.optim import WeightAverage, build_minimiser
from mdistiller.engine.solver import learning_rate
from mdistiller.models import build_model
from tests.engine.conftest import TINY, Script
from tests.engine.test_networks import TEST_IMAGES, columns_of
from tests.engine.test_resume import stop as stop

pytest.importorskip("timm")

VIT, DISTILLED = "timm:vit_tiny_patch16_224", "timm:deit_tiny_distilled_patch16_224"
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
RECIPE = (
    "SOLVER.TYPE AdamW SOLVER.LR 0.003 SOLVER.WEIGHT_DECAY 0.05 SOLVER.SCHEDULER cosine SOLVER.CLIP_GRAD 1 "
    "SOLVER.WARMUP_EPOCHS 1 SOLVER.EMA 0.8 SOLVER.LABEL_SMOOTHING 0.1 DATASET.MIXUP 0.8 DATASET.CUTMIX 1"
).split()


class Sure(nn.Module):
    """A teacher that knows the classes `target` of its images."""

    def __init__(self, target):
        super().__init__()
        self.logits = nn.Parameter(20 * F.one_hot(target).float())

    def forward(self, image):
        return self.logits, {}


@pytest.mark.parametrize("form", ["soft", "hard"])
@pytest.mark.parametrize("name", [VIT, DISTILLED])
def test_a_small_transformer_learns_a_batch_by_heart(name, form):
    torch.manual_seed(0)
    cfg, images, target = CFG.clone(), torch.randn(16, 3, 32, 32), torch.arange(16) % 8
    merge_pairs(cfg, [*RECIPE, "SOLVER.EPOCHS", "100", "SOLVER.LABEL_SMOOTHING", "0", "DEIT.FORM", form])
    student = build_model("cifar100", name, 8, SMALL, 32)
    distiller = build_distiller("DEIT", student, Sure(target), cfg).train()
    optimizer = build_minimiser(cfg.SOLVER, distiller.get_learnable_parameters())
    average = WeightAverage(student, cfg.SOLVER.EMA)
    for step in range(1, 101):
        optimizer.lr = learning_rate(cfg.SOLVER, step)
        optimizer.backward(distiller(image=images, target=target, epoch=step)[1])
        optimizer.step()
        average.update_parameters(student)
    with torch.no_grad():
        assert F.cross_entropy(average.module.eval()(images)[0], target) < 0.1


@pytest.fixture
def arguments(tmp_path):
    """Of a distilled transformer that learns the largest class of a resnet8 by the whole recipe."""
    torch.manual_seed(0)
    torch.save(build_model("cifar100", "resnet8", 36).state_dict(), tmp_path / "teacher.pth")
    networks = "--selected_student", DISTILLED, "--selected_teacher", "resnet8", "--distiller", "DeiT"
    small = "{patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2, drop_path_rate: 0.1}"
    settings = *RECIPE, "DEIT.FORM", "hard", "DISTILLER.STUDENT_ARGS", small
    return *networks, "--teacher_weights", tmp_path / "teacher.pth", *TINY, *TEST_IMAGES, *settings


def test_a_distilled_transformer_is_trained_stopped_resumed_and_evaluated(script, stop, arguments, tmp_path):
    assert script(distillation_main, *arguments).status == 0, script.err
    assert "distiller=DeiT-hard" in script.out
    stopped = Script(tmp_path / "stopped")
    stop(2)
    assert stopped(distillation_main, *arguments).status == 143
    assert stopped(distillation_main, "--resume").status == 0, stopped.err
    columns = "train_loss", "test_loss", "loss_ce", "loss_kd"
    assert columns_of(stopped, *columns) == columns_of(script, *columns)
    assert script(evaluation_main, "--all").status == 0, script.err
