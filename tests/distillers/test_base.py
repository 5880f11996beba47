"""What the base class promises every method."""

from pathlib import Path

import pytest
import torch

from mdistiller import distillers
from mdistiller.checks import require_all
from mdistiller.distillers import (
    DISTILLERS,
    KD,
    PUBLISHED_INDICES,
    VID,
    FitNet,
    build_distiller,
    canonical_name,
    find_method,
)
from mdistiller.distillers._common import ConvReg, get_feat_shapes, low_confidence_share, warm_up
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return build_model("cifar100", "resnet8", 10), build_model("cifar100", "resnet14", 10)


def test_teacher_is_frozen_and_stays_in_eval_mode(pair):
    distiller = KD(*pair, CFG).train()
    assert distiller.student.training and not distiller.teacher.training
    assert not any(parameter.requires_grad for parameter in distiller.teacher.parameters())


def test_training_step_leaves_the_teacher_as_it_was(pair):
    before = {key: value.clone() for key, value in pair[1].state_dict().items()}
    distiller = KD(*pair, CFG).train()
    optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), 0.1)
    _, losses = distiller(image=torch.randn(4, 3, 32, 32), target=torch.arange(4), epoch=1)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in pair[1].state_dict().items())


def test_eval_mode_gives_the_students_logits(pair):
    distiller = KD(*pair, CFG).eval()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(distiller(image=image), pair[0](image)[0])


def test_vanilla_has_no_teacher(pair):
    distiller = build_distiller("NONE", pair[0], None, CFG).train()
    _, losses = distiller(image=torch.randn(2, 3, 32, 32), target=torch.arange(2), epoch=1, index=torch.arange(2))
    assert list(losses) == ["loss_ce"] and distiller.teacher is None


def test_probing_shapes_leaves_modes_and_statistics_untouched(pair):
    student, teacher = pair
    student.train()
    teacher.eval()
    teacher.layer2.train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    student_shapes, teacher_shapes = get_feat_shapes(student, teacher, (32, 32))
    assert [tuple(shape) for shape in student_shapes] == [
        (1, 16, 32, 32),
        (1, 16, 32, 32),
        (1, 32, 16, 16),
        (1, 64, 8, 8),
    ]
    assert teacher_shapes == student_shapes
    assert student.training and not teacher.training and teacher.layer2.training
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


@pytest.mark.parametrize(("side", "teacher_side"), [(8, 8), (8, 4), (4, 8), (8, 5), (5, 8)])
def test_conv_reg_reaches_the_teachers_shape(side, teacher_side):
    regressor = ConvReg((1, 6, side, side), (1, 10, teacher_side, teacher_side))
    assert regressor(torch.randn(2, 6, side, side)).shape == (2, 10, teacher_side, teacher_side)


def test_warm_up_rises_to_one():
    assert [warm_up(epoch, 4) for epoch in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert warm_up(1, 0) == 1.0


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_low_confidence_share_equals_that_of_the_interpolated_median(count):
    confidence = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    expected = (confidence <= confidence.quantile(0.5)).double().mean()
    assert low_confidence_share(confidence) == expected


def test_name_of_a_method_in_any_case():
    assert canonical_name("vanilla") == "NONE" and canonical_name("skd") == "SKD"
    assert find_method("fitnet") is FitNet and find_method("fitnet").__name__ == "FitNet"


def test_unknown_method_names_the_nearest_and_lists_the_valid():
    with pytest.raises(UserError, match=r"unknown distiller 'SKDD'.*nearest: 'SKD'.*DKD, DEIT, FSP, FT, FITNET, KD"):
        canonical_name("SKDD")


def test_method_file_is_found_under_its_name_and_section():
    files = {path.stem for path in Path(distillers.__file__).parent.glob("[A-Z]*.py")}
    assert {method.__name__ for method in DISTILLERS.values()} == files
    for name, method in DISTILLERS.items():
        assert method.section() == method.__name__.upper() == ("VANILLA" if name == "NONE" else name)
        assert getattr(distillers, method.__name__) is method


@pytest.mark.parametrize("name", [name for name in DISTILLERS if name != "NONE"])
def test_method_says_what_it_is(name):
    method = DISTILLERS[name]
    assert method.transfers
    require_all(method.checks, method.defaults, name)


def test_methods_that_have_an_index_keep_it():
    kept = "NST PKT SP VID KDSVD DIST NKD CTKD RLD TTM WTTM WKD CATKD SIMKD SRRL OFAKD CC SEMCKD USKD DEIT".split()
    kept += "AB FT FSP SSKD SRD DISTPLUS".split()
    assert [DISTILLERS[name].index for name in kept] == list(range(PUBLISHED_INDICES, PUBLISHED_INDICES + len(kept)))


def test_only_a_teacher_in_train_mode_moves():
    torch.manual_seed(0)
    image, cfg = torch.randn(4, 3, 32, 32), CFG.clone()
    cfg.CRD.NCE.K = 2
    for name, method in DISTILLERS.items():
        networks = [build_model("cifar100", network, 10) for network in ("resnet8", "resnet14")]
        distiller = build_distiller(name, networks[0], networks[1] if method.needs_teacher else None, cfg, 4).train()
        distiller.set_targets(torch.arange(4) % 2)
        before = {key: value.clone() for key, value in networks[1].state_dict().items()}
        distiller(image=image, target=torch.arange(4), index=torch.arange(4), epoch=1)
        moved = any(not torch.equal(before[key], value) for key, value in networks[1].state_dict().items())
        assert moved == (not method.teacher_is_constant), name


def test_parameters_of_a_method_are_found_behind_the_students(pair):
    student, teacher = pair
    distiller = VID(student, teacher, CFG)
    theirs = [*student.parameters(), *distiller.regressors.parameters(), *distiller.log_scales]
    assert list(map(id, distiller.get_learnable_parameters())) == list(map(id, theirs))
    assert distiller.get_extra_parameters() == sum(p.numel() for p in theirs[len(list(student.parameters())) :])
    assert KD(student, teacher, CFG).get_extra_parameters() == 0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("KD.TEMPERATURE", 0, "a number from 0.001 to 10,000"),
        ("CRD.NCE.K", 0, "a whole number from 1 to 131,072"),
        ("CRD.MODE", "loose", "one of exact, relax"),
        ("MLKD.VIEWS", 3, "one of 1, 2"),
        ("OFD.CONNECTOR.KERNEL_SIZE", 2, "one of 1, 3, 5, 7"),
        ("FITNET.HINT_LAYER", -1, "a whole number from 0 to 100"),
    ],
)
def test_bad_value_is_refused_before_a_method_is_built(pair, key, value, expected):
    cfg = CFG.clone()
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=rf"^{key} is {value}; expected {expected}$"):
        build_distiller(key.split(".")[0], *pair, cfg, num_data=4)
