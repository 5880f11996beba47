"""From a config to a trained student: builds the parts, runs the trainer."""

import contextlib
import importlib.metadata
import platform
from dataclasses import dataclass
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
from .describe import describe_code, describe_run, git_commit, hints
from .failures import explained
from .identity import with_variant
from .index import Benchmark
from .metrics import Result, evaluate
from .owner import owned
from .precision import compile_networks, keep_freed_memory
from .resume import SavedRun, has_ended, tell_ended
from .runlog import RunLog, import_wandb, start_wandb
from .runs import BASELINE_FOLDERS, RunFiles, create_run, folders_of
from .seeds import seed_everything
from .teachers import fetch_pretrained, find_teacher_weights, sha256_of, warnings_of
from .trainer import Trainer
from .values import dump, leaves
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


@dataclass
class Parts:
    """What a run trains, on what. cfg: with what was found out; notes: warnings about it."""

    cfg: CN
    data: Data
    student: nn.Module
    teacher: nn.Module | None
    teacher_top1: float | None
    notes: list[str]


def run_experiment(
    cfg: CN,
    benchmark: Benchmark,
    device: torch.device,
    utils: Path,
    baseline: bool = False,
    subfolder: str = "",
    source: str | None = None,
    saved: SavedRun | None = None,
) -> tuple[Result, RunFiles]:
    """Train DISTILLER.STUDENT as the resolved `cfg` says; returns the best student's result and the run's files.

    baseline: write to the folders of `train.py`, for networks without a teacher; subfolder: of the weights' folder;
    source: the --cfg file that the settings are from;
    saved: a run to go on with, of which `cfg` may change what `check_same` lets.
    Everything a user can get wrong raises UserError before the run's folders are made.
    """
    method = find_method(cfg.DISTILLER.TYPE)
    log_folder, weights_folder = BASELINE_FOLDERS if baseline else folders_of(method)
    label = with_variant(method.__name__, cfg, method)
    student_name, teacher_name = cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER if method.needs_teacher else None
    published = [with_variant(student_name, cfg, method)] if baseline else [student_name, label]
    with contextlib.ExitStack() as stack:
        state, files = None, saved.place.files(*published) if saved else None
        if saved and files:
            stack.enter_context(owned(files.weights))
            state = saved.read(files)
            saved.check(cfg)
            if state is not None and has_ended(state, cfg, files):
                return tell_ended(state, files), files
        parts = build_parts(cfg, benchmark, device, utils)
        cfg = parts.cfg
        if saved:
            saved.check(cfg)
        distiller = assemble(cfg, parts.student, parts.teacher, parts.data.train)
        if files is None:
            title = published if baseline else [teacher_name or "none", *published]
            folders = utils / log_folder, utils / weights_folder / subfolder
            files = create_run(*folders, benchmark.label, title, published)
            stack.enter_context(owned(files.weights))
        config_text = dump(used_sections(cfg, method))
        meta = {
            "run": files.name,
            "network": student_name,
            "models": benchmark.models_for(cfg.DATASET.TYPE),
            "teacher": teacher_name,
            "teacher_top1": parts.teacher_top1,
            "teacher_sha256": cfg.DISTILLER.TEACHER_SHA256 or None,
            "distiller": label,
            "chosen_by": parts.data.val_from or "test",
            "config": config_text,
            **describe_data(cfg, parts.data),
            **describe_versions(),
        }
        judged_on = "validation" if parts.data.val else "test"
        log = stack.enter_context(
            RunLog(files, config_text, start_wandb(cfg, files), state and state["log"], judged_on)
        )
        trainer = Trainer(cfg, distiller, parts.data, files, log, meta)
        if saved and state:
            saved.load_into(trainer)
            for line in saved.describe(trainer):
                log.line(line)
        else:
            log.line("===== New Logging Session Started =====")
            running = f"student={student_name}, teacher={teacher_name}, distiller={label}"
            log.line(f"Running main with {running}", wrap=False)
            networks = {"teacher": parts.teacher, "student": parts.student}
            for line in describe_run(cfg, meta, parts.data, networks, files):
                log.line(line)
            if method.takes_new_sections:
                log.line(f"Settings: from {source}" if source else "Settings: defaults, as there is no --cfg")
            if parts.teacher is not None:
                log.line(f"Teacher's weights: {cfg.DISTILLER.TEACHER_WEIGHTS}")
                checksum = cfg.DISTILLER.TEACHER_SHA256[:16]
                log.line(f"Teacher's Top-1 Accuracy: {parts.teacher_top1:.2f}, SHA-256 {checksum}")
            for note in (*parts.notes, *hints(cfg)):
                log.line(note)
        with explained(trainer):
            return trainer.fit(), files


def build_parts(cfg: CN, benchmark: Benchmark, device: torch.device, utils: Path) -> Parts:
    """The images and networks that `cfg` names, the global generators seeded for what draws from them next."""
    models, needs_teacher = benchmark.models_for(cfg.DATASET.TYPE), find_method(cfg.DISTILLER.TYPE).needs_teacher
    data = build_data(cfg, device, cfg.EXPERIMENT.SEED, memory_format=memory_format_of(cfg))
    if data.num_classes < 2:
        raise UserError(f"the data has one class only, {data.classes[0]!r}; expected two or more class folders")
    if cfg.LOG.WANDB:
        import_wandb()
    notes, teacher_top1 = [data.note] if data.note else [], None
    splits = ["train", "test", *(["val"] if "val" in data.fingerprints else [])]
    found = {
        "DATASET.FINGERPRINT": ("images", "-".join(data.fingerprints[split] for split in splits)),
        "DISTILLER.TYPE_SHA256": ("distiller's file", find_method(cfg.DISTILLER.TYPE).checksum()),
        "EXPERIMENT.VERSIONS": ("code", describe_code(describe_versions()["versions"])),
    }
    for key, (what, now) in found.items():
        if leaves(cfg)[key] not in ("", now):
            has = "have" if what == "images" else "has"
            notes.append(f"Warning: the {what} {has} changed since the run of this config; its numbers may differ")
        cfg = changed(cfg, key, now)
    seed_everything(cfg.EXPERIMENT.SEED)
    student, teacher = build_model(models, cfg.DISTILLER.STUDENT, data.num_classes), None
    if needs_teacher:
        name, dataset = cfg.DISTILLER.TEACHER, describe_data(cfg, data)["dataset"]
        teacher = build_model(models, name, data.num_classes)
        if not cfg.DISTILLER.TEACHER_WEIGHTS:
            weights, passed_over = find_teacher_weights(benchmark, cfg, utils, dataset)
            notes += passed_over
            cfg = changed(cfg, "DISTILLER.TEACHER_WEIGHTS", str(weights))
        fetch_pretrained(cfg.DISTILLER.TEACHER_WEIGHTS, name)
        meta = load_weights(teacher, cfg.DISTILLER.TEACHER_WEIGHTS, name, data.classes)
        teacher_top1 = evaluate(teacher.to(device), data.val or data.test).top1
        sha256 = sha256_of(cfg.DISTILLER.TEACHER_WEIGHTS)
        notes += warnings_of(cfg, meta, dataset | {"num_classes": data.num_classes}, teacher_top1, sha256)
        cfg = changed(cfg, "DISTILLER.TEACHER_SHA256", sha256)
    return Parts(cfg, data, student, teacher, teacher_top1, notes)


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
