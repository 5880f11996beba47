"""DeiT's losses by its formulas, and students with a distillation token, whose two heads learn apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.models import build_model
from tests.distillers.test_logit_golden import Fixed

TARGET = torch.arange(6) % 10
LABELS, TOKEN, TEACHER = (
    torch.from_numpy(np.random.RandomState(seed).standard_normal((6, 10)) * 3) for seed in (1, 2, 3)
)
OF_LOGITS = [
    name for name, method in DISTILLERS.items() if method.compares_logits and name != "SDD"
]  # which reads maps
ARGUMENTS = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def release(outputs, outputs_kd, teacher_outputs, labels, kind, alpha, tau, smoothing=0.0):
    """The loss of DeiT's release, line by line."""
    base_loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    if kind == "soft":
        distillation_loss = (
            F.kl_div(
                F.log_softmax(outputs_kd / tau, dim=1),
                F.log_softmax(teacher_outputs / tau, dim=1),
                reduction="sum",
                log_target=True,
            )
            * (tau * tau)
            / outputs_kd.numel()
        )
    else:
        distillation_loss = F.cross_entropy(outputs_kd, teacher_outputs.argmax(dim=1))
    return base_loss * (1 - alpha) + distillation_loss * alpha


class Heads(nn.Module):
    """A student that gives the logits of two heads."""

    def __init__(self, of_class, of_token):
        super().__init__()
        self.of_class, self.of_token = nn.Parameter(of_class.clone()), nn.Parameter(of_token.clone())

    def forward(self, image):
        heads = self.of_class, self.of_token
        return torch.stack(heads).mean(dim=0), {"heads": heads} if self.training else {}


def config(*pairs):
    cfg = CFG.clone()
    cfg.CRD.NCE.K = 4
    cfg.merge_from_list(list(pairs))
    return cfg


def losses_of(method, student, cfg, **more):
    distiller = build_distiller(method, student, Fixed([TEACHER]), cfg, 20).double().train()
    return distiller(image=torch.zeros(6, 3, 1, 1), target=TARGET, epoch=1000, index=torch.arange(6), **more)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "alpha", "tau"), [("soft", 0.5, 1.0), ("soft", 0.1, 3.0), ("hard", 0.5, 1.0)])
def test_losses_and_gradients_of_deit_equal_its_release(kind, alpha, tau, smoothing):
    leaves = [logits.clone().requires_grad_() for logits in (LABELS, TOKEN)]
    expected = release(*leaves, TEACHER, TARGET, kind, alpha, tau, smoothing)
    expected.backward()
    cfg = config("DEIT.FORM", kind, "DEIT.ALPHA", alpha, "DEIT.TEMPERATURE", tau, "SOLVER.LABEL_SMOOTHING", smoothing)
    student = Heads(LABELS, TOKEN)
    total = sum(losses_of("DEIT", student, cfg)[1].values())
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-8)
    for head, leaf in zip((student.of_class, student.of_token), leaves, strict=True):
        torch.testing.assert_close(head.grad, leaf.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_deit_without_a_token_takes_one_head_for_both(kind):
    expected = release(LABELS, LABELS, TEACHER, TARGET, kind, 0.5, 1.0)
    total = sum(losses_of("DEIT", Fixed([LABELS]), config("DEIT.FORM", kind))[1].values())
    assert total.item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize(("method", "views"), [*((name, 1) for name in OF_LOGITS), ("MLKD", 2)])
def test_the_class_head_learns_the_labels_and_that_of_the_token_the_teacher(method, views):
    image, cfg = (
        torch.zeros(6, 3, 1, 1),
        config("MLKD.VIEWS", views, "DATASET.AUGMENT", ["weak", "two-view"][views - 1]),
    )
    more = {"image_strong": image} if views == 2 else {}
    logits, apart = losses_of(method, Heads(LABELS, TOKEN), cfg, **more)
    (_, of_class), (_, of_token) = (losses_of(method, Fixed([each]), cfg, **more) for each in (LABELS, TOKEN))
    torch.testing.assert_close(logits, (LABELS + TOKEN) / 2)
    torch.testing.assert_close(apart, of_token | {"loss_ce": of_class["loss_ce"]})


@pytest.mark.parametrize("method", ["NONE", "PKT"])
def test_both_heads_learn_the_labels_where_no_logits_are_compared(method):
    pytest.importorskip("timm")
    student, teacher = distilled(), build_model("cifar100", "resnet8", 10)
    distiller = build_distiller(method, student, None if method == "NONE" else teacher, CFG).train()
    torch.manual_seed(0)
    logits, losses = distiller(image=torch.rand(6, 3, 32, 32), target=TARGET, epoch=1)
    losses["loss_ce"].backward()
    torch.testing.assert_close(losses["loss_ce"], F.cross_entropy(logits, TARGET))
    assert student.head.weight.grad.any() and student.head_dist.weight.grad.any()


def distilled():
    torch.manual_seed(0)
    return build_model("cifar100", "timm:deit_tiny_distilled_patch16_224", 10, ARGUMENTS, 32)


def test_a_distilled_transformer_gives_both_heads_in_training_and_their_mean_in_testing():
    pytest.importorskip("timm")
    network, images = distilled(), torch.rand(2, 3, 32, 32)
    logits, features = network.train()(images)
    tested, of_testing = network.eval()(images)
    of_class, of_token = features["heads"]
    torch.testing.assert_close(logits, (of_class + of_token) / 2)
    torch.testing.assert_close(tested, logits)
    assert not torch.equal(of_class, of_token) and "heads" not in of_testing


def test_heads_come_out_of_a_compiled_network():
    pytest.importorskip("timm")
    network, images = distilled().train(), torch.rand(2, 3, 32, 32)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images)[1]["heads"], network(images)[1]["heads"])
