"""Scripts written for MDistiller import and use what they import there."""

import contextlib
import io

import pytest
import torch

from mdistiller.dataset import get_dataset
from mdistiller.distillers import Vanilla, distiller_dict
from mdistiller.distillers._base import Vanilla as VanillaOfBase
from mdistiller.engine import trainer_dict
from mdistiller.engine.cfg import CFG, show_cfg
from mdistiller.engine.utils import (
    AverageMeter,
    accuracy,
    adjust_learning_rate,
    load_checkpoint,
    log_msg,
    save_checkpoint,
    validate,
)
from mdistiller.errors import UserError
from mdistiller.models import build_model, cifar_model_dict, imagenet_model_dict, tiny_imagenet_model_dict

TINY = (
    "DATASET.TYPE synthetic DATASET.SYNTHETIC.TRAIN_IMAGES 48 DATASET.SYNTHETIC.TEST_IMAGES 36 SOLVER.BATCH_SIZE 16 "
    "SOLVER.EPOCHS 1 DISTILLER.STUDENT resnet8 DISTILLER.TEACHER resnet14 CRD.NCE.K 8"
).split()


@pytest.fixture
def cfg(tmp_path):
    cfg = CFG.clone()
    cfg.merge_from_list([*TINY, "LOG.PREFIX", str(tmp_path)])
    return cfg


def networks(num_classes):
    return [cifar_model_dict[name][0](num_classes=num_classes) for name in ("resnet8", "resnet14")]


@pytest.mark.parametrize(("kind", "solver"), [("NONE", "base"), ("KD", "dot"), ("CRD", "crd")])
def test_mdistiller_s_script_trains(cfg, tmp_path, kind, solver):
    cfg.merge_from_list(["DISTILLER.TYPE", kind, "SOLVER.TRAINER", solver])
    cfg.freeze()
    train_loader, val_loader, num_data, num_classes = get_dataset(cfg)
    student, teacher = networks(num_classes)
    arguments = {"NONE": [student], "KD": [student, teacher, cfg], "CRD": [student, teacher, cfg, num_data]}[kind]
    distiller = torch.nn.DataParallel(distiller_dict[kind](*arguments))
    before = student.fc.weight.clone()
    trainer_dict[cfg.SOLVER.TRAINER]("distill/tag", distiller, train_loader, val_loader, cfg).train(resume=False)
    assert not torch.equal(before, student.fc.weight)
    (best,) = tmp_path.glob(f"distill/tag/weights/*_{kind}/best.pth")
    assert torch.equal(load_checkpoint(best)["model"]["fc.weight"], student.fc.weight)


def test_a_trainer_takes_any_loader_of_tuples_and_resumes(cfg, tmp_path):
    images = torch.utils.data.TensorDataset(torch.randn(20, 3, 32, 32), torch.arange(20) % 4, torch.arange(20))
    loader = torch.utils.data.DataLoader(images, batch_size=8)
    distiller = distiller_dict["KD"](*networks(4), cfg)
    trainer = trainer_dict["base"]("mine", distiller, loader, loader, cfg)
    with pytest.raises(UserError, match="no run to resume"):
        trainer.train(resume=True)
    trainer.train()
    cfg.SOLVER.EPOCHS = 2
    trainer.train(resume=True)
    epochs = sorted(load_checkpoint(path)["training"]["finished"] for path in tmp_path.glob("mine/weights/*/last.pth"))
    assert epochs == [1, 2]


def test_loaders_yield_tuples_as_often_as_they_say(cfg):
    train_loader, val_loader, num_data, num_classes = get_dataset(cfg)
    batches = list(train_loader)
    assert len(batches) == len(train_loader) == 3 and (num_data, num_classes) == (48, 36)
    image, target, index = batches[0]
    assert image.shape == (16, 3, 32, 32) and torch.equal(train_loader.dataset.targets[index], target)
    assert [len(part) for part in next(iter(val_loader))] == [36, 36]
    assert not cfg.DATASET.MEAN


def test_the_tables_of_networks_build_them_and_say_where_teachers_are():
    network, path = cifar_model_dict["resnet8x4"]
    assert network(num_classes=7)(torch.randn(2, 3, 32, 32))[0].shape == (2, 7) and path is None
    assert cifar_model_dict["vgg13"][1].endswith("download_ckpts/cifar_teachers/vgg13_vanilla/ckpt_epoch_240.pth")
    assert tiny_imagenet_model_dict["ResNet18"][1].endswith("ResNet18_vanilla/ti_res18")
    assert imagenet_model_dict["MobileNetV1"](pretrained=False).fc.out_features == 1000


def test_pretrained_networks_have_torchvision_s_weights(monkeypatch):
    reference = build_model("imagenet", "ResNet18", 1000)
    monkeypatch.setattr("torchvision.models.get_model", lambda name, weights: {"resnet18": reference}[name])
    network = imagenet_model_dict["ResNet18"](pretrained=True)
    assert torch.equal(network.fc.weight, reference.fc.weight)
    with pytest.raises(UserError, match="MobileNetV1 of 1000 classes has no pretrained weights"):
        imagenet_model_dict["MobileNetV1"](pretrained=True)


def test_vanilla_has_mdistiller_s_place():
    assert VanillaOfBase is Vanilla is distiller_dict["NONE"]


def test_a_checkpoint_is_written_and_read(tmp_path):
    save_checkpoint({"model": {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "latest")
    assert load_checkpoint(tmp_path / "latest")["epoch"] == 3


def test_the_small_tools_count_as_they_say(cfg):
    logits, target = torch.eye(4)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 3])
    assert [value.tolist() for value in accuracy(logits, target, (1, 4))] == [[75.0], [100.0]]
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(5.0)
    assert (meter.val, meter.avg) == (5.0, 2.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    assert adjust_learning_rate(200, cfg, optimizer) == optimizer.param_groups[0]["lr"] == pytest.approx(0.0005)
    assert log_msg("hi", "EVAL") == "\033[31m[EVAL] hi\033[0m"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show_cfg(cfg)
    assert "EPOCHS: 1" in out.getvalue()


def test_validation_is_of_the_student():
    network = build_model("cifar100", "resnet8", 4)
    batches = [(torch.randn(3, 3, 32, 32), torch.arange(3))]
    top1, top5, loss = validate(batches, torch.nn.DataParallel(Vanilla(network)))
    logits = network.eval()(batches[0][0])[0]
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, batches[0][1]).item(), rel=1e-5)
    assert 0 <= top1 <= top5 == 100.0 or top5 < 100.0
