"""From a config to a trained student: builds the parts, runs the trainer."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode as CN

import mdistiller
from mdistiller.dataset import BatchSource, Data, build_data
from mdistiller.distillers import Distiller, build_distiller, find_method
from mdistiller.errors import UserError
from mdistiller.models import build_model
from mdistiller.models.folding import fold_batch_norms

from .cfg import changed, used_sections
from .describe import describe_run, git_commit, hints
from .failures import explained
from .identity import with_variant
from .index import Benchmark
from .metrics import Result, evaluate
from .precision import compile_networks, keep_freed_memory
from .runlog import RunLog, import_wandb, start_wandb
from .runs import BASELINE_FOLDERS, RunFiles, create_run, folders_of
from .seeds import seed_everything
from .teachers import fetch_pretrained, find_teacher_weights, sha256_of, warnings_of
from .trainer import Trainer
from .values import dump
from .weights import load_weights


def select_device(name: str | None) -> torch.device:
    """The device called `name`; for None CUDA where there is one, else the CPU.

    Raises UserError where there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"device {name!r} is not available here; type --device cpu, or cuda on a GPU") from error
    return device


def memory_format_of(cfg: CN) -> torch.memory_format:
    """Layout of images and weights: what the config allows and the method takes."""
    return find_method(cfg.DISTILLER.TYPE).memory_format if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format


def assemble(cfg: CN, student: nn.Module, teacher: nn.Module | None, train: BatchSource) -> Distiller:
    """The distiller that `cfg` names, on the device of `train` and ready to be trained on it."""
    distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, len(train.image_set))
    if teacher is not None and distiller.teacher_is_constant:
        distiller.teacher = fold_batch_norms(teacher)
    distiller = distiller.to(train.device).to(memory_format=memory_format_of(cfg))
    distiller.set_targets(train.image_set.targets)
    if train.device.type == "cpu":
        keep_freed_memory()
    if cfg.SOLVER.COMPILE:
        compile_networks(distiller, train.device)
    return distiller


def run_experiment(
    cfg: CN,
    benchmark: Benchmark,
    device: torch.device,
    utils: Path,
    baseline: bool = False,
    subfolder: str = "",
    source: str | None = None,
) -> tuple[Result, RunFiles]:
    """Train DISTILLER.STUDENT as the resolved `cfg` says; returns the best student's result and the run's files.

    baseline: write to the folders of `train.py`, for networks without a teacher; subfolder: of the weights' folder;
    source: the --cfg file that the settings are from.
    Everything a user can get wrong raises UserError before the run's folders are made.
    """
    method = find_method(cfg.DISTILLER.TYPE)
    student_name, teacher_name, models = cfg.DISTILLER.STUDENT, None, benchmark.models_for(cfg.DATASET.TYPE)
    data = build_data(cfg, device, cfg.EXPERIMENT.SEED, memory_format=memory_format_of(cfg))
    if data.num_classes < 2:
        raise UserError(f"the data has one class only, {data.classes[0]!r}; expected two or more class folders")
    if cfg.LOG.WANDB:
        import_wandb()
    about_data, notes, teacher_top1 = describe_data(cfg, data), [data.note] if data.note else [], None
    fingerprint = "-".join(data.fingerprints[split] for split in ("train", "test"))
    if cfg.DATASET.FINGERPRINT not in ("", fingerprint):
        notes.append("Warning: the images have changed since the run of this config; its numbers will differ")
    cfg = changed(cfg, "DATASET.FINGERPRINT", fingerprint)
    seed_everything(cfg.EXPERIMENT.SEED)
    student, teacher = build_model(models, student_name, data.num_classes), None
    if method.needs_teacher:
        teacher_name = cfg.DISTILLER.TEACHER
        teacher = build_model(models, teacher_name, data.num_classes)
        if not cfg.DISTILLER.TEACHER_WEIGHTS:
            weights, notes = find_teacher_weights(benchmark, cfg, utils, about_data["dataset"])
            cfg = changed(cfg, "DISTILLER.TEACHER_WEIGHTS", str(weights))
        fetch_pretrained(cfg.DISTILLER.TEACHER_WEIGHTS, teacher_name)
        load_weights(teacher, cfg.DISTILLER.TEACHER_WEIGHTS, teacher_name, data.classes)
        teacher_top1 = evaluate(teacher.to(device), data.val or data.test).top1
        sha256 = sha256_of(cfg.DISTILLER.TEACHER_WEIGHTS)
        notes += warnings_of(cfg, teacher_top1, sha256, data.num_classes)
        cfg = changed(cfg, "DISTILLER.TEACHER_SHA256", sha256)
    distiller = assemble(cfg, student, teacher, data.train)

    log_folder, weights_folder = BASELINE_FOLDERS if baseline else folders_of(method)
    label = with_variant(method.__name__, cfg, method)
    published = [with_variant(student_name, cfg, method)] if baseline else [student_name, label]
    title = published if baseline else [teacher_name or "none", *published]
    files = create_run(utils / log_folder, utils / weights_folder / subfolder, benchmark.label, title, published)
    config_text = dump(used_sections(cfg, method))
    meta = {
        "run": files.name,
        "network": student_name,
        "models": models,
        "teacher": teacher_name,
        "teacher_top1": teacher_top1,
        "teacher_sha256": cfg.DISTILLER.TEACHER_SHA256 or None,
        "distiller": label,
        "chosen_by": data.val_from or "test",
        "config": config_text,
        **about_data,
        **describe_versions(),
    }
    with RunLog(files, config_text, start_wandb(cfg, files)) as log:
        log.line("===== New Logging Session Started =====")
        running = f"student={student_name}, teacher={teacher_name}, distiller={label}"
        log.line(f"Running main with {running}", wrap=False)
        for line in describe_run(cfg, meta, data, {"teacher": teacher, "student": student}, files):
            log.line(line)
        if method.takes_new_sections:
            log.line(f"Settings: from {source}" if source else "Settings: defaults, as there is no --cfg")
        if teacher is not None:
            log.line(f"Teacher's weights: {cfg.DISTILLER.TEACHER_WEIGHTS}")
            log.line(f"Teacher's Top-1 Accuracy: {teacher_top1:.2f}, SHA-256 {cfg.DISTILLER.TEACHER_SHA256[:16]}")
        for note in (*notes, *hints(cfg)):
            log.line(note)
        trainer = Trainer(cfg, distiller, data, files, log, meta)
        with explained(trainer):
            result = trainer.fit()
        if data.val:  # whose images chose the best student; the test images are asked once
            load_weights(distiller.student, files.best, student_name)
            result = evaluate(distiller.student, data.test)
            log.line(f"Test {result}")
        return result, files


def describe_data(cfg: CN, data: Data) -> dict[str, Any]:
    """What a weight file tells of the data that its network was trained on."""
    return {
        "num_classes": data.num_classes,
        "dataset": {
            "type": cfg.DATASET.TYPE,
            "classes": list(data.classes),
            "image_size": data.image_size,
            "train_images": len(data.train.image_set),
            "test_images": len(data.test.image_set),
            "fingerprints": data.fingerprints,
            "validation": data.val_from,
            "seed": cfg.DATASET.SYNTHETIC.SEED if cfg.DATASET.TYPE == "synthetic" else None,
        },
        "normalisation": {"mean": list(data.mean), "std": list(data.std)},
    }


def installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # as of a build from source that is only on the path
        return "unknown"


def describe_versions() -> dict[str, Any]:
    """What a weight file tells of the code that made it."""
    return {
        "versions": {
            "mdistiller": mdistiller.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": installed_version("torchvision"),
            "numpy": np.__version__,
            "commit": git_commit(),
        }
    }
