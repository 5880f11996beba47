"""Methods of an initial stage, and the others that came with them: what their golden numbers do not say."""

import copy

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.distillers._initial import StagedDistiller
from mdistiller.distillers.AB import boundary_loss
from mdistiller.distillers.DISTPlus import channel_correlation
from mdistiller.distillers.FSP import flow
from mdistiller.distillers.SRD import srd_loss
from mdistiller.distillers.SSKD import best_ranked, by_image, kept_kl, similarities, turned
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model

STAGED = [name for name, method in DISTILLERS.items() if issubclass(method, StagedDistiller)]
PAIRS = [("resnet8", "resnet14"), ("MobileNetV2", "vgg8"), ("vgg8", "wrn_16_1"), ("ShuffleV2", "resnet14")]


def build(method, student="resnet8", teacher="vgg8", is_initial=True):
    torch.manual_seed(0)
    networks = [build_model("cifar100", name, 10) for name in (student, teacher)]
    distiller = build_distiller(method, *networks, CFG)
    distiller.set_initial(is_initial)
    return distiller.train()


def step(distiller, images=4):
    image = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, losses = distiller(image=image, target=torch.arange(images), epoch=1, index=torch.arange(images))
    sum(losses.values()).backward()
    return logits, losses


@pytest.mark.parametrize("pair", PAIRS, ids="<-".join)
@pytest.mark.parametrize("method", STAGED)
def test_an_initial_stage_reaches_what_it_alone_trains_and_leaves_the_teacher(method, pair):
    distiller = build(method, *pair)
    before = copy.deepcopy(distiller.teacher.state_dict())
    logits, losses = step(distiller)
    assert logits.shape == (4, 10) and losses["loss_initial"].isfinite() and losses["loss_initial"] > 0
    own = [parameter for module in distiller.initial_modules() for parameter in module.parameters()]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in own)
    reached = [parameter.grad is not None for parameter in distiller.student.parameters()]
    assert any(reached) == distiller.begins_with_student
    assert all(torch.equal(value, before[key]) for key, value in distiller.teacher.state_dict().items())


@pytest.mark.parametrize("method", STAGED)
def test_an_initial_stage_takes_a_batch_of_one_image(method):
    assert step(build(method), images=1)[1]["loss_initial"].isfinite()


@pytest.mark.parametrize("method", STAGED)
def test_what_the_initial_stage_trains_stays_as_it_is_afterwards(method):
    distiller = build(method, is_initial=False)
    step(distiller)
    for module in distiller.initial_modules():
        assert not module.training and all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not {*map(id, distiller.get_learnable_parameters())} & {
        id(p) for module in distiller.initial_modules() for p in module.parameters()
    }


@pytest.mark.parametrize("method", STAGED)
def test_evaluation_in_the_initial_stage_is_the_student_s(method):
    distiller = build(method).eval()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(distiller(image=image), distiller.student(image)[0])


def test_a_frozen_student_that_a_stage_should_begin_with_is_refused():
    distiller = build("FSP", "resnet8", "resnet14")
    for name, parameter in distiller.student.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    with pytest.raises(UserError, match=r"DISTILLER.FREEZE leaves .* FSP nothing to train; .*FSP.INITIAL.EPOCHS 0"):
        step(distiller)


def test_ab_s_loss_is_zero_beyond_the_margin_on_the_teacher_s_side():
    teacher = torch.tensor([[1.0, -1.0, 0.5, -0.5]]).view(1, 4, 1, 1)
    assert boundary_loss(3 * teacher, teacher, 1.0) == 0
    assert boundary_loss(-teacher, teacher, 1.0) == 4 + 4 + 1.5**2 + 1.5**2


def test_the_flow_of_two_maps_is_their_products_at_the_smaller_size():
    feat, deeper = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    expected = torch.einsum("bchw,bdhw->bdc", torch.nn.functional.avg_pool2d(feat, 2), deeper) / 4
    torch.testing.assert_close(flow(feat, deeper), expected)


def test_turned_images_come_back_by_image():
    image = torch.randn(3, 3, 8, 8)
    turns = turned(image).flatten(1)
    assert torch.equal(by_image(turns)[:, 0], image.flatten(1))
    assert torch.equal(by_image(turns)[2, 3], image[2].rot90(3, (1, 2)).flatten())


def test_similarities_have_a_row_a_turned_image():
    representation = torch.zeros(2, 4, 3)
    representation[0, :, 0] = representation[1, :, 1] = 2.0
    assert similarities(representation).tolist() == [[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3


@pytest.mark.parametrize(
    ("share", "kept"), [(0.0, [True, False, False]), (0.5, [True, False, True]), (1.0, [True] * 3)]
)
def test_what_is_right_is_kept_and_of_the_rest_the_least_wrong(share, kept):
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert best_ranked(scores, torch.tensor([0, 2, 1]), share).tolist() == kept


def test_no_row_that_counts_has_no_loss():
    scores = torch.randn(3, 4, requires_grad=True)
    loss = kept_kl(scores, torch.randn(3, 4), torch.zeros(3, dtype=torch.bool), 1.0)
    loss.backward()
    assert loss == 0 and not scores.grad.any()


def test_srd_of_equal_features_is_finite():
    feat = torch.randn(4, 6, requires_grad=True)
    loss = srd_loss(feat, feat.detach(), 4.0)
    loss.backward()
    assert loss.isfinite() and feat.grad.isfinite().all()


def test_dist_plus_takes_positions_of_equal_channels():
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    student[:, :, 0, 0] = 0.0
    student.requires_grad_()
    correlation = channel_correlation(student, teacher)
    correlation.backward()
    assert correlation.isfinite() and student.grad.isfinite().all()


def test_dist_plus_intended_raises_the_correlation_of_channels_that_released_lowers():
    torch.manual_seed(0)
    networks = [build_model("cifar100", name, 10) for name in ("resnet8", "resnet14")]
    found = {}
    for form in ("released", "intended"):
        cfg = CFG.clone()
        cfg.DISTPLUS.FORM = form
        found[form] = step(build_distiller("DISTPlus", *copy.deepcopy(networks), cfg).train())[1]["loss_channel"]
    torch.testing.assert_close(found["released"] + found["intended"], torch.tensor(2.0))
