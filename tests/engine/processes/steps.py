"""A process of several: trains each method for three steps and writes what the first one reached.

Started with the variables that torchrun sets, and the path to write to, the methods, and the precision.
"""

import sys

import torch

from mdistiller.dataset import Data, Loader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.distillers import find_method
from mdistiller.engine.cfg import config_for
from mdistiller.engine.distributed import join
from mdistiller.engine.run import assemble
from mdistiller.engine.trainer import Trainer
from mdistiller.models import build_model

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
BATCH, STEPS = 15, 3


def trainer_of(case, processes, dtype):
    """case: a method's name, and KEY=VALUE of the config after it."""
    name, *pairs = case.split()
    method = find_method(name)
    cfg = config_for(method)
    cfg.DISTILLER.TYPE, cfg.CRD.NCE.K, cfg.SOLVER.FREEZE_BN, cfg.SOLVER.BATCH_SIZE = name, 20, True, BATCH
    cfg.merge_from_list([part for pair in pairs for part in pair.split("=")])
    torch.manual_seed(0)
    images = draw_synthetic(2 * BATCH + 5, 0, "train")  # the third batch is divided unevenly, or not at all
    options = {"augment": cfg.DATASET.AUGMENT, "shuffle": True, "seed": 1, "share": processes.share}
    loader = Loader(images, BATCH, *STATISTICS, memory_format=method.memory_format, **options)
    student, teacher = (build_model("cifar100", network, 36) for network in ("resnet8", "resnet14"))
    distiller = assemble(cfg, student, teacher if method.needs_teacher else None, loader, processes).to(dtype)
    return Trainer(cfg, distiller, Data(loader, None, images.classes, 32, *STATISTICS), None, None, {}, processes)


def reached(case, processes, dtype):
    """The averages, the norms of the gradients and the weights after the steps."""
    trainer = trainer_of(case, processes, dtype)
    norms, step = [], trainer.optimizer.step

    def remember():
        norms.append(step())
        return norms[-1]

    trainer.optimizer.step = remember
    trainer.distiller.train()
    for module in trainer.distiller.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for batch in trainer.data.train:
        trainer.train_step({k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()})
    result, terms = trainer.meter.read()
    state = {k: v for k, v in trainer.distiller.state_dict().items() if "generator" not in k}
    return {"result": [result.loss, result.top1, result.images], "terms": terms, "norms": norms, "state": state}


def main(path, dtype, *cases):
    torch.set_num_threads(1)
    processes = join(torch.device("cpu"))
    found = {case: reached(case, processes, getattr(torch, dtype)) for case in cases}
    if processes.is_first:
        torch.save(found, path)
    processes.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
