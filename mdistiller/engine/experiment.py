"""From a config to a trained student: builds the parts, runs the trainer."""

import platform
import random
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

import mdistiller
from mdistiller.dataset import IMAGENET_WNIDS, BatchSource, build_data, fill_defaults
from mdistiller.distillers import Distiller, build_distiller, is_file_reference, label_of
from mdistiller.errors import UserError
from mdistiller.models import build_model
from mdistiller.models.folding import fold_batch_norms

from . import cfg as config
from .acceleration import compile_networks, keep_freed_memory
from .benchmarks import Benchmark
from .checkpoint import load_weights, read_weights, rows_of
from .evaluation import Result
from .pretrained import fetch_pretrained, pretrained_file
from .runs import RunFiles, RunLog, create_run
from .trainer import Trainer

PROJECT = Path(mdistiller.__file__).resolve().parents[1]


def select_device(name: str | None) -> torch.device:
    """The device called `name`; for None CUDA where there is one, else the CPU.

    Raises UserError where there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not available here; type --device cpu, or cuda on a GPU") from error
    return device


def find_teacher_weights(benchmark: Benchmark, name: str, utils: Path, classes: list[str]) -> Path:
    """The first of the default places that holds weights of the teacher `name` for `classes`.

    On classes of ImageNet that is torchvision's, to be downloaded. Else it is what `train.py` wrote on these classes,
    the published name first, then its best run, and then where MDistiller keeps teachers of CIFAR-100.
    Raises UserError, listing the places and the command that trains one, where there is none.
    """
    if benchmark.models == "imagenet" and {*classes} <= {*IMAGENET_WNIDS} and (file := pretrained_file(name)):
        return file
    folder = utils / "model_pth"
    published = folder / f"best_model_weights_{name}.pth"
    mdistillers = PROJECT / "download_ckpts" / "cifar_teachers" / f"{name}_vanilla" / "ckpt_epoch_240.pth"
    if published.is_file() and top1_on(published, classes) is not None:
        return published
    runs = [(top1_on(path, classes), path) for path in sorted(folder.glob(f"*_{name}/best.pth"))]
    if runs := [run for run in runs if run[0] is not None]:
        return max(runs)[1]
    if benchmark.models == "cifar100" and mdistillers.is_file():
        return mdistillers
    other = f" ({published} is of other classes)" if published.is_file() else ""
    command = f"python {utils.parent.name}/{utils.name}/train.py --selected_model {name}"
    raise UserError(
        f"no weights of the teacher {name} for these {len(classes)} classes: looked for {published}{other}, runs "
        f"beside it and {mdistillers}; train it ({command}) or name a file with --teacher_weights"
    )


def top1_on(path: Path, classes: list[str]) -> float | None:
    """Top-1 that the weights at `path` say they reach; None where they say that they score other classes.

    0 for weights that say nothing; those that cannot be read pass, for loading them to say why.
    """
    try:
        _, meta = read_weights(path)
    except UserError:
        return 0.0
    theirs = meta.get("dataset", {}).get("classes", classes)
    return meta.get("top1", 0.0) if theirs == classes or rows_of(classes, theirs) else None


def seed_everything(seed: int) -> None:
    """Seed the generators that networks' initialisation and a user's own distiller draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def memory_format_of(cfg) -> torch.memory_format:
    """Layout of images and weights; MDistiller's files call `.view` on feature maps, which needs them contiguous."""
    is_fast = cfg.SOLVER.CHANNELS_LAST and not is_file_reference(cfg.DISTILLER.TYPE)
    return torch.channels_last if is_fast else torch.contiguous_format


def assemble(cfg, student: nn.Module, teacher: nn.Module | None, train: BatchSource) -> Distiller:
    """The distiller that `cfg` names, on the device of `train` and ready to be trained on it."""
    distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, len(train.image_set))
    if teacher is not None and not distiller.needs_teacher_norms and not is_file_reference(cfg.DISTILLER.TYPE):
        distiller.teacher = fold_batch_norms(teacher)
    distiller = distiller.to(train.device, memory_format=memory_format_of(cfg))
    if hasattr(distiller, "set_targets"):
        distiller.set_targets(train.image_set.targets)
    if train.device.type == "cpu":
        keep_freed_memory()
    if cfg.SOLVER.COMPILE:
        compile_networks(distiller, train.device)
    return distiller


def run_experiment(
    cfg, benchmark: Benchmark, device: torch.device, utils: Path, baseline: bool = False, subfolder: str = ""
) -> tuple[Result, RunFiles]:
    """Train DISTILLER.STUDENT as `cfg` says and return the best student's result and the run's files.

    baseline: write to the folders of `train.py`, for networks without a teacher; subfolder: of the weights' folder.
    Everything a user can get wrong raises UserError before the run's folders are made.
    """
    fill_defaults(cfg.DATASET)
    config.check(cfg)
    teacher_name, student_name = cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT
    has_teacher = cfg.DISTILLER.TYPE != "NONE"
    label = label_of(cfg.DISTILLER.TYPE)
    data = build_data(cfg, device, cfg.EXPERIMENT.SEED, memory_format=memory_format_of(cfg))
    if data.num_classes < 2:
        raise UserError(f"the data has one class only, {data.classes[0]!r}; expected two or more class folders")
    # Its regressor must be made for maps of the size that training has.
    cfg.FITNET.INPUT_SIZE = (data.image_size, data.image_size)
    seed_everything(cfg.EXPERIMENT.SEED)
    student, teacher = build_model(benchmark.models, student_name, data.num_classes), None
    if has_teacher:
        teacher = build_model(benchmark.models, teacher_name, data.num_classes)
        if not cfg.DISTILLER.TEACHER_WEIGHTS:
            cfg.DISTILLER.TEACHER_WEIGHTS = str(find_teacher_weights(benchmark, teacher_name, utils, data.classes))
        fetch_pretrained(cfg.DISTILLER.TEACHER_WEIGHTS, teacher_name)
        load_weights(teacher, cfg.DISTILLER.TEACHER_WEIGHTS, teacher_name, data.classes)
    config_text = config.dump(cfg)
    distiller = assemble(cfg, student, teacher, data.train)

    if baseline:
        log_folder, weights_folder, title, published = "model_train_log", "model_pth", student_name, student_name
    else:
        log_folder, weights_folder = "distiller_train_log", "model_distillation_pth"
        if label == "SDD":
            log_folder, weights_folder = "SDD_train_log", "SDD_model_pth"
        title = f"{teacher_name if has_teacher else 'none'}_{student_name}_{label}"
        published = f"{student_name}_{label}"
    files = create_run(utils / log_folder, utils / weights_folder / subfolder, benchmark.label, title, published)
    meta = {
        "run": files.name,
        "network": student_name,
        "models": benchmark.models,
        "num_classes": data.num_classes,
        "dataset": {
            "type": cfg.DATASET.TYPE,
            "classes": list(data.classes),
            "image_size": data.image_size,
            "train_images": len(data.train.image_set),
            "test_images": len(data.test.image_set),
            "seed": cfg.DATASET.SYNTHETIC.SEED if cfg.DATASET.TYPE == "synthetic" else None,
        },
        "normalisation": {"mean": list(data.mean), "std": list(data.std)},
        "teacher": teacher_name if has_teacher else None,
        "distiller": label,
        "config": config_text,
        "versions": {
            "mdistiller": mdistiller.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "numpy": np.__version__,
        },
    }
    with RunLog(files, config_text) as log:
        log.line("===== New Logging Session Started =====")
        log.line(f"Running main with student={student_name}, teacher={meta['teacher']}, distiller={label}")
        if data.note:
            log.line(data.note)
        if has_teacher:
            log.line(f"Teacher's weights: {cfg.DISTILLER.TEACHER_WEIGHTS}")
        return Trainer(cfg, distiller, data, files, log, meta).fit(), files
