"""What a training step must not do on a GPU, seen without one: wait for values, or mix devices."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdistiller.dataset import Data, Loader
from mdistiller.dataset.loaders import AUGMENTATIONS
from mdistiller.distillers import DISTILLERS
from mdistiller.engine.cfg import CFG
from mdistiller.engine.metrics import Meter
from mdistiller.engine.run import assemble
from mdistiller.engine.trainer import Trainer
from mdistiller.models import build_model
from tools.benchmark.workload import random_images

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BATCH, CLASSES = 8, 100

# What CUDA cannot answer before the host has seen the values.
READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "_linalg_check_errors"}
READS |= {"_unique2", "unique_consecutive", "unique_dim", "_linalg_svd", "_linalg_eigh", "linalg_eig"}
NEEDED = {"KDSVD": {"_linalg_eigh"}}  # there is no other way to the singular vectors
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}


class Reads(TorchDispatchMode):
    """Lists the operations that read values; numbers that a CPU generator has just drawn are on the host anyway."""

    def __init__(self):
        super().__init__()
        self.found, self.drawn = [], torch.empty(1)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation._schema.name.removeprefix("aten::")
        result = operation(*args, **kwargs)
        if name in READS and args[0].data_ptr() != self.drawn.data_ptr():
            self.found.append(name)
        if name in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.found.append(f"{name} by a mask")
        if name == "randint" and any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
            self.drawn = result
        return result


def trainer_of(method, augment="weak"):
    cfg = CFG.clone()
    cfg.DISTILLER.TYPE, cfg.CRD.NCE.K = method, 4
    torch.manual_seed(0)
    student, teacher = (build_model("cifar100", name, CLASSES) for name in ("resnet8", "resnet14"))
    image_set = random_images(2 * BATCH)
    loader = Loader(image_set, BATCH, *STATISTICS, augment)
    data = Data(loader, None, image_set.classes, 32, *STATISTICS)
    distiller = assemble(cfg, student, None if method == "NONE" else teacher, loader)
    return Trainer(cfg, distiller.train(), data, None, None, {})


@pytest.mark.parametrize("method", DISTILLERS)
def test_a_step_reads_no_value_back(method):
    trainer = trainer_of(method, "two-view" if method == "MLKD" else "weak")
    batches, meter = list(trainer.data.train), Meter()
    with Reads() as reads:
        for batch in batches:
            with trainer.precision:
                logits, losses = trainer.distiller(**batch, epoch=1)
            trainer.optimizer.backward(losses)
            trainer.optimizer.step()
            meter.update(losses, logits, batch["target"])
    assert set(reads.found) == NEEDED.get(method, set())


def test_reads_are_seen():
    values = torch.rand(3)
    with Reads() as reads:
        values[0].item()
        values[values > 0.5]
        values.nonzero()
    assert reads.found == ["_local_scalar_dense", "index by a mask", "nonzero"]


# CRD draws from a generator of the device, of which "meta" has none.
@pytest.mark.parametrize("method", [name for name in DISTILLERS if name != "CRD"])
def test_a_step_takes_place_on_the_device_of_the_images(method, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no "meta"
    distiller = trainer_of(method).distiller.to("meta")
    image, target = torch.empty(BATCH, 3, 32, 32, device="meta"), torch.empty(BATCH, dtype=torch.int64, device="meta")
    views = {"image": image, "image_weak": image, "image_strong": image}
    logits, losses = distiller(**views, target=target, index=target, epoch=1)
    sum(losses.values()).mean().backward()
    used = [parameter.grad for parameter in distiller.student.parameters() if parameter.grad is not None]
    assert {x.device.type for x in (logits, *losses.values(), *used)} == {"meta"} and used


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_batches_are_made_on_the_device_of_the_images(augment):
    loader = Loader(random_images(2 * BATCH).to("meta"), BATCH, *STATISTICS, augment, shuffle=True)
    batches = list(loader)
    assert batches and {values.device.type for batch in batches for values in batch.values()} == {"meta"}
