"""What a distiller file is given, and what it may give back."""

import re

import numpy as np
import pytest
import torch

from mdistiller.distillers import build_distiller, find_method
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model

SOURCE = """
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F

from ._base import Distiller


class Mine(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def forward_train(self, image, target, **kwargs):
        logits, features = self.student(image)
        loss = F.cross_entropy(logits, target)
        return RETURNED
"""
BATCH = {"image": torch.randn(4, 3, 32, 32), "target": torch.arange(4), "index": torch.arange(4)}


@pytest.fixture
def build(tmp_path):
    """Builds the class Mine of a text, in train mode, for the keys and values given."""

    def build(source, *pairs, num_data=8):
        path, cfg = tmp_path / "mine.py", CFG.clone()
        path.write_text(source)
        cfg.merge_from_list(pairs)
        networks = [build_model("cifar100", "resnet8", 10) for _ in range(2)]
        return build_distiller(f"{path}:Mine", *networks, cfg, num_data).train()

    return build


@pytest.mark.parametrize(
    ("returned", "losses"),
    [
        ("logits, {'a': loss, 'b': 0.5, 'c': 2}", {"b": 0.5, "c": 2}),
        ("logits, {'a': loss, 'b': np.float32(0.5)}", {"b": 0.5}),
        ("logits, {'a': loss, 'b': torch.tensor(3)}", {"b": 3}),
        ("logits, {'a': loss, 'b': torch.tensor([1.0, 3.0])}", {"b": 2}),
        ("[logits, OrderedDict(a=loss)]", {}),
    ],
)
def test_losses_are_scalars_numbers_or_averaged(build, returned, losses):
    logits, found = build(SOURCE.replace("RETURNED", returned))(**BATCH, epoch=1)
    assert logits.shape == (4, 10) and list(found) == ["a", *losses]
    for name, value in losses.items():
        assert found[name].shape == () and found[name].item() == pytest.approx(float(np.float32(value)))
    sum(found.values()).backward()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "it is NoneType"),
        ("loss", "it is a tensor of shape ()"),
        ("{'a': loss}", "it is dict"),
        ("(logits, {'a': loss}, 3)", "it is tuple (a tensor of shape (4, 10), dict, int)"),
        ("({'a': loss}, logits)", "it is tuple (dict, a tensor of shape (4, 10))"),
        ("(logits, loss)", "it is tuple (a tensor of shape (4, 10), a tensor of shape ())"),
        ("(logits, [loss])", "it is tuple (a tensor of shape (4, 10), list (a tensor of shape ()))"),
        ("(logits, {'a': None})", "'a' is NoneType"),
        ("(logits, {'a': 'b'})", "'a' is str"),
        ("(logits, {'a': {'b': loss}})", "'a' is dict"),
        ("(logits, {'a': loss * 1j})", "'a' is a complex tensor of shape ()"),
        ("(logits, {'a': loss.new_zeros(0)})", "'a' is a tensor of shape (0,)"),
        ("(logits, {})", "no loss has a gradient"),
        ("(logits, {'a': 0.0})", "no loss has a gradient"),
        ("(logits, {'a': loss.detach()})", "no loss has a gradient"),
        ("(logits, {1: loss})", "1 is no name"),
        ("(logits[:3], {'a': loss})", "the logits are a tensor of shape (3, 10) for a batch of 4"),
        ("((logits, features), {'a': loss})", "the logits are tuple"),
        ("(features['feats'][-1], {'a': loss})", "the logits are a tensor of shape (4, 64, 8, 8)"),
    ],
)
def test_what_no_trainer_can_take_is_one_line_naming_the_file(build, returned, message):
    distiller = build(SOURCE.replace("RETURNED", returned))
    with pytest.raises(UserError, match=re.escape(message)) as error:
        distiller(**BATCH, epoch=1)
    assert "mine.py" in str(error.value) and "\n" not in str(error.value)
    assert "logits (batch, classes) and a dict of losses by name, scalar tensors or numbers" in str(error.value)


def test_a_loss_that_turns_bad_later_is_named_too(build):
    distiller = build(SOURCE.replace("RETURNED", "logits, {'a': loss, 'b': 0.0 if kwargs['epoch'] < 2 else None}"))
    distiller(**BATCH, epoch=1)
    with pytest.raises(UserError, match="NoneType"):
        distiller(**BATCH, epoch=2)


def test_losses_that_are_no_dict_are_named(build):
    source = (
        "from ._base import Distiller\nclass Mine(Distiller):\n    def losses(self, *args, **kwargs):\n        return 3"
    )
    with pytest.raises(UserError, match=r"losses of Mine in .*mine\.py returns int"):
        build(source)(**BATCH, epoch=1)


def test_a_class_without_losses_is_named(build):
    with pytest.raises(UserError, match=r"mine\.py: Mine must define losses or forward_train"):
        build("from ._base import Distiller\nclass Mine(Distiller): pass")(**BATCH, epoch=1)


@pytest.mark.parametrize(
    "signature",
    [
        "self, student, teacher",
        "self, student, teacher, cfg=None",
        "self, student, teacher, *, cfg",
        "self, model_s, model_t, options",
        "self, student, teacher, num_data, cfg",
        "self, student, teacher, cfg, num_data",
        "self, *args, **kwargs",
    ],
)
def test_a_class_is_built_by_the_arguments_it_names(build, signature):
    names = re.findall(r"student|teacher|model_.", signature) or ["*args[:2]"]
    source = SOURCE.replace("self, student, teacher, cfg", signature).replace("RETURNED", "logits, {'a': loss}")
    distiller = build(source.replace("(student, teacher)", f"({', '.join(names)})"))
    assert distiller(**BATCH, epoch=1)[1]["a"].isfinite()


def test_a_class_that_never_starts_its_base_is_named(build):
    with pytest.raises(UserError, match=r"has no student; its __init__ begins with super\(\)"):
        build(SOURCE.replace("super().__init__(student, teacher)", "self.k = 3"))


def test_contrastive_samples_are_drawn_for_a_file_that_takes_them(build):
    source = SOURCE.replace("image, target, **kwargs", "image, target, index, contrastive_index, **kwargs")
    distiller = build(source.replace("RETURNED", "contrastive_index.float(), {'a': loss}"), "CRD.NCE.K", 3)
    distiller.set_targets(torch.arange(8) % 4)
    rows, _ = distiller(**BATCH, epoch=1)
    assert rows.shape == (4, 4) and rows[:, 0].tolist() == [0, 1, 2, 3]
    assert not (rows[:, 1:] % 4 == rows[:, :1] % 4).any()


def test_two_views_are_given_to_a_file_that_takes_them_and_asked_for_where_they_lack(build):
    source = SOURCE.replace("image, target, **kwargs", "image_weak, image_strong, target, **kwargs")
    source = source.replace("self.student(image)", "self.student(image_weak)").replace(
        "RETURNED", "logits, {'a': loss}"
    )
    views = {"image_weak": BATCH["image"], "image_strong": BATCH["image"]}
    assert build(source, "DATASET.AUGMENT", "two-view")(**BATCH, **views, epoch=1)[0].shape == (4, 10)
    with pytest.raises(UserError, match=r"takes image_strong, image_weak; .* add DATASET\.AUGMENT two-view"):
        build(source)
    with pytest.raises(UserError, match="takes mask; expected some of epoch, image, index, target"):
        build(SOURCE.replace("image, target, **kwargs", "image, target, mask").replace("RETURNED", "logits, {}"))


LISTING = """
    def get_learnable_parameters(self):
        return LISTED
"""


@pytest.mark.parametrize(
    "listed",
    ["self.student.parameters()", "self.student.named_parameters()", "2 * list(self.student.parameters())"],
)
def test_parameters_are_taken_once_each_however_they_are_listed(build, listed):
    distiller = build(SOURCE.replace("RETURNED", "logits, {'a': loss}") + LISTING.replace("LISTED", listed))
    assert list(map(id, distiller.get_learnable_parameters())) == list(map(id, distiller.student.parameters()))


@pytest.mark.parametrize("listed", ["None", "[]", "[self.student]", "[{'params': []}]"])
def test_what_is_no_list_of_parameters_is_named(build, listed):
    distiller = build(SOURCE.replace("RETURNED", "logits, {'a': loss}") + LISTING.replace("LISTED", listed))
    with pytest.raises(UserError, match=r"mine\.py returns .*; expected a list of parameters"):
        distiller.get_learnable_parameters()


def test_a_file_mentions_the_keys_in_its_text_and_its_helpers_and_its_own_section(tmp_path):
    (tmp_path / "helper.py").write_text("def f(cfg):\n    return cfg.SOLVER.EMA\n")
    (tmp_path / "mine.py").write_text(
        "from .helper import f\n" + SOURCE.replace("RETURNED", "cfg.EXPERIMENT.LOGIT_STAND")
    )
    method = find_method(f"{tmp_path}/mine.py:Mine")
    assert [method.mentions(key) for key in ("LOGIT_STAND", "EMA", "MINE", "LOGIT", "EPOCH")] == [True] * 3 + [
        False
    ] * 2
