"""A step of every method on networks of torchvision and timm, as student and as teacher.

A few in each run of the tests; all, at 32 and 64 pixels, where MATRIX is set.
"""

import copy
import functools
import os

import pytest
import torch

from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, build_distiller, find_method
from mdistiller.engine.cfg import config_for
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.models.foreign import CLASSES, NETWORKS, build

EVERY = "MATRIX" in os.environ
SIZES = (32, 64) if EVERY else (32,)
FEW = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t", "vit_tiny_patch16_224", "regnety_002")
CHOSEN = [name for name in NETWORKS if EVERY or name.partition(":")[2] in FEW]
# What cannot run, by a part of the reason.
LACKS_FINAL_MAP, LACKS_NORMS = "reads no average of it", "has no batch norm before each"
WITHOUT_FINAL_MAP = {"vgg11_bn", "mobilenet_v3_small", "convnext_tiny", "mobilenetv4_conv_small", "convnext_atto"}
TRANSFORMERS = {"vit_b_16", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"}
WITHOUT_NORMS = {"densenet121", "convnext_tiny", "shufflenet_v2_x0_5", "swin_t", "convnext_atto", *TRANSFORMERS}


def expected_refusal(method, name, role):
    own = name.partition(":")[2]
    reads_map = method in ("SDD", "CATKD", "SIMKD") or (method == "SRRL" and role == "student")
    if reads_map and own in WITHOUT_FINAL_MAP | TRANSFORMERS:
        return LACKS_FINAL_MAP
    if method == "OFD" and role == "teacher" and own in WITHOUT_NORMS:
        return LACKS_NORMS
    return None


@functools.cache
def network(name, size):
    return build(name, size) if ":" in name else build_model("cifar100", name, CLASSES)


@pytest.mark.parametrize("method", [name for name in DISTILLERS if name != PLAIN_TRAINING])
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CHOSEN)
def test_a_step_is_finite_and_reaches_the_student_alone(name, size, role, method):
    cfg = config_for(find_method(method))
    cfg.DATASET.IMAGE_SIZE, cfg.CRD.NCE.K, cfg.CRD.FEAT.DIM = size, 5, 8
    networks = [copy.deepcopy(network(each, size)) for each in (name, "resnet20")]
    student, teacher = networks if role == "student" else networks[::-1]
    if reason := expected_refusal(method, name, role):
        with pytest.raises(UserError, match=reason):
            build_distiller(method, student, teacher, cfg, 20)
        return
    distiller = build_distiller(method, student, teacher, cfg, 20)
    distiller.set_targets(torch.arange(20) % CLASSES)
    frozen = copy.deepcopy(teacher.state_dict())
    torch.manual_seed(0)
    batch = {"image": torch.rand(4, 3, size, size), "target": torch.arange(4), "index": torch.arange(4)}
    logits, losses = distiller.train()(**batch, epoch=5)
    sum(losses.values()).backward()
    assert logits.shape == (4, CLASSES) and all(loss.isfinite() for loss in losses.values())
    gradients = {key: parameter.grad for key, parameter in student.named_parameters() if "aux" not in key}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    if distiller.teacher_is_constant:
        assert all(torch.equal(value, frozen[key]) for key, value in teacher.state_dict().items())
