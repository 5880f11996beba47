"""Distiller files from outside the package, as written for MDistiller."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdistiller.distillers import KD, Distiller, build_distiller, find_method
from mdistiller.distillers.foreign import ForeignDistiller
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model

SOURCE = """
import torch
import torch.nn as nn
import torch.nn.functional as F

from ._base import Distiller
from ._common import ConvReg, get_feat_shapes
from .KD import kd_loss


class Hint(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Hint, self).__init__(student, teacher)
        self.temperature = cfg.KD.TEMPERATURE
        self.weight = cfg.HINT.WEIGHT
        self.warmup = cfg.HINT.WARMUP
        self.layer = cfg.FITNET.HINT_LAYER
        student_shapes, teacher_shapes = get_feat_shapes(self.student, self.teacher, cfg.FITNET.INPUT_SIZE)
        self.conv_reg = ConvReg(student_shapes[self.layer], teacher_shapes[self.layer])

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.conv_reg.parameters())

    def get_extra_parameters(self):
        return sum(p.numel() for p in self.conv_reg.parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, feature_student = self.student(image)
        with torch.no_grad():
            logits_teacher, feature_teacher = self.teacher(image)
        hint = F.mse_loss(self.conv_reg(feature_student["feats"][self.layer]), feature_teacher["feats"][self.layer])
        losses_dict = {
            "loss_ce": F.cross_entropy(logits_student, target),
            "loss_kd": kd_loss(logits_student, logits_teacher, self.temperature),
            "loss_hint": min(kwargs["epoch"] / self.warmup, 1.0) * self.weight * hint,
        }
        return logits_student, losses_dict
"""

PLAIN = """
import torch.nn.functional as F

from ._base import Distiller


class Plain(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def forward_train(self, image, target):
        logits, _ = self.student(image)
        return logits, {"loss_ce": F.cross_entropy(logits, target, reduction="none")}
"""


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "elsewhere" / "my-method.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return f"{path}:Hint"


@pytest.fixture
def cfg():
    cfg = CFG.clone()
    cfg.HINT = type(CFG)({"WEIGHT": 2.0, "WARMUP": 4})
    return cfg


def build(reference, cfg):
    torch.manual_seed(0)
    return build_distiller(reference, build_model("cifar100", "resnet8", 10), build_model("cifar100", "vgg8", 10), cfg)


def test_file_with_relative_imports_trains(reference, cfg):
    distiller = build(reference, cfg).train()
    batch = {"image": torch.randn(4, 3, 32, 32), "target": torch.arange(4), "index": torch.arange(4)}
    _, losses = distiller(**batch, epoch=1)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in distiller.get_learnable_parameters())
    _, later = distiller(**batch, epoch=8)
    assert later["loss_hint"].item() == pytest.approx(4 * losses["loss_hint"].item(), rel=1e-3)


def test_run_label_is_the_class_name(reference):
    assert find_method(reference).__name__ == "Hint"


def test_file_is_read_anew_when_it_changes(reference):
    method = find_method(reference)
    assert find_method(reference) is method
    path = Path(reference.removesuffix(":Hint"))
    path.write_text(SOURCE.replace("class Hint(Distiller):", "class Hint(Distiller):\n    'Changed.'\n"))
    assert find_method(reference).__doc__ == "Changed."


def test_what_a_file_counts_on(reference):
    method = find_method(reference)
    assert issubclass(method, ForeignDistiller) and issubclass(method, Distiller)
    assert method.takes_new_sections and not method.teacher_is_constant
    assert method.memory_format == torch.contiguous_format


def test_input_size_is_that_of_the_data(reference, cfg):
    cfg.DATASET.IMAGE_SIZE = 64
    distiller = build(reference, cfg).train()
    batch = {"image": torch.randn(2, 3, 64, 64), "target": torch.arange(2), "index": torch.arange(2)}
    assert distiller(**batch, epoch=1)[1]["loss_hint"].isfinite()
    assert cfg.FITNET.INPUT_SIZE == (32, 32)


def test_file_may_take_few_keywords_and_return_losses_of_each_image(tmp_path, cfg):
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    distiller = build(f"{path}:Plain", cfg).train()
    batch = {"image": torch.randn(4, 3, 32, 32), "target": torch.arange(4), "index": torch.arange(4)}
    logits, losses = distiller(**batch, epoch=1)
    torch.testing.assert_close(losses["loss_ce"], F.cross_entropy(logits, batch["target"]))


def test_method_that_derives_from_one_of_ours_reads_that_ones_section(tmp_path, cfg):
    path = tmp_path / "derived.py"
    path.write_text("from .KD import KD\n\n\nclass Derived(KD):\n    pass\n")
    distiller = build(f"{path}:Derived", cfg)
    assert isinstance(distiller, KD) and distiller.temperature == cfg.KD.TEMPERATURE
    assert find_method(f"{path}:Derived").defaults == {}


def test_checks_of_a_file_hold(tmp_path, cfg):
    path = tmp_path / "checked.py"
    source = SOURCE.replace("class Hint(Distiller):", "class Hint(Distiller):\n    checks = {'WARMUP': COUNT}\n")
    path.write_text("from mdistiller.checks import COUNT\n" + source)
    build(f"{path}:Hint", cfg)
    cfg.HINT.WARMUP = 0
    with pytest.raises(UserError, match=r"HINT\.WARMUP is 0; expected a whole number from 1 to"):
        build(f"{path}:Hint", cfg)
    with pytest.raises(UserError, match=r"HINT\.WARMUP is missing; expected a whole number from 1 to"):
        build(f"{path}:Hint", CFG.clone())


def test_missing_file_is_a_user_error(tmp_path, cfg):
    with pytest.raises(UserError, match=r"no distiller file .*absent\.py; expected --distiller"):
        build(f"{tmp_path}/absent.py:Hint", cfg)


@pytest.mark.parametrize("class_name", [":Hunt", ""])
def test_missing_class_lists_those_in_the_file(reference, cfg, class_name):
    with pytest.raises(UserError, match=r"no distiller class .* classes there: Hint"):
        build(reference.removesuffix(":Hint") + class_name, cfg)


def test_file_that_does_not_import_says_why(tmp_path, cfg):
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package\n")
    with pytest.raises(UserError, match="does not import: ModuleNotFoundError: No module named 'no_such_package'"):
        build(f"{path}:Broken", cfg)


OWN_MODULE = """
import torch
from torch import nn

from ._base import Distiller


class Scaled(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.scale = nn.Linear(1, 1)
        self.judge = nn.Linear(2, 2)
"""


@pytest.mark.parametrize("lists_its_own", [True, False])
def test_a_file_s_parameters_are_those_it_lists_or_else_all_its_own(tmp_path, cfg, lists_its_own):
    listing = """
    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.scale.parameters())
"""
    path = tmp_path / f"scaled_{lists_its_own}.py"
    path.write_text(OWN_MODULE + listing * lists_its_own)
    networks = [build_model("cifar100", "resnet8", 10) for _ in range(2)]
    distiller = build_distiller(f"{path}:Scaled", *networks, cfg)
    own = [*distiller.scale.parameters(), *(() if lists_its_own else distiller.judge.parameters())]
    assert list(map(id, distiller.get_learnable_parameters())) == list(map(id, [*networks[0].parameters(), *own]))
