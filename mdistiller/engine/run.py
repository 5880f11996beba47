"""From a config to a trained student: builds the parts, runs the trainer."""

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import BatchSource, Data, ImageSet, build_data
from mdistiller.distillers import Distiller, build_distiller, find_method
from mdistiller.errors import UserError

from .cfg import changed, used_sections
from .describe import describe_code, describe_run, hint_of_devices, hints
from .distributed import ONE, Processes
from .failures import explained
from .freezing import freeze
from .identity import with_variant
from .index import Benchmark
from .launch import Launch
from .metrics import Result
from .networks import arguments_told, build_student, checksums_of, label_of
from .owner import owned
from .precision import compile_networks, keep_freed_memory, make_deterministic
from .provenance import describe_data, describe_versions
from .resume import SavedRun, has_ended, tell_ended
from .runlog import QuietLog, RunLog, import_wandb, start_wandb
from .runs import BASELINE_FOLDERS, RunFiles, create_run, folders_of
from .seeds import seed_everything
from .teachers import sha256_of
from .teaching import build_teacher, folded
from .trainer import Trainer
from .values import dump, leaves
from .weights import load_weights


def memory_format_of(cfg: CN) -> torch.memory_format:
    """Layout of images and weights: what the config allows and the method takes."""
    return find_method(cfg.DISTILLER.TYPE).memory_format if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format


def assemble(
    cfg: CN, student: nn.Module, teacher: nn.Module | None, train: BatchSource, processes: Processes = ONE
) -> Distiller:
    """The distiller that `cfg` names, on the device of `train` and ready to be trained on it."""
    distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, len(train.image_set))
    if teacher is not None and distiller.teacher_is_constant:
        distiller.teacher = folded(teacher)
    if cfg.SOLVER.SYNC_BN and processes.size > 1:
        for name, part in distiller.named_children():
            if part is not distiller.teacher or not distiller.teacher_is_constant:  # whose folded norms do nothing
                setattr(distiller, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
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
    processes: Processes = ONE,
) -> tuple[Result, RunFiles]:
    """Train DISTILLER.STUDENT as the resolved `cfg` says; returns the best student's result and the run's files.

    baseline: write to the folders of `train.py`, for networks without a teacher; subfolder: of the weights' folder;
    source: the --cfg file that the settings are from;
    saved: a run to go on with, of which `cfg` may change what `check_same` lets; processes: that train together.
    Everything a user can get wrong raises UserError before the run's folders are made.
    """
    processes.check(cfg.SOLVER)
    if cfg.SOLVER.DETERMINISTIC:
        make_deterministic(device)
    method = find_method(cfg.DISTILLER.TYPE)
    log_folder, weights_folder = BASELINE_FOLDERS if baseline else folders_of(method)
    label = with_variant(method.__name__, cfg, method)
    student_name, teacher_name = label_of(cfg, "STUDENT"), label_of(cfg, "TEACHER") if method.needs_teacher else None
    published = [with_variant(student_name, cfg, method)] if baseline else [student_name, label]
    with contextlib.ExitStack() as stack:
        state, files = None, saved.place.files(*published) if saved else None
        if saved and files:
            if processes.is_first:
                stack.enter_context(owned(files.weights))
            state = saved.read(files, processes)
            saved.check(cfg)
            if state is not None and processes.first(partial(has_ended, state, cfg, files)):
                return tell_ended(state, files), files
        parts = build_parts(cfg, benchmark, device, utils, processes, state is not None)
        cfg = parts.cfg
        if saved:
            saved.check(cfg)
        distiller = assemble(cfg, parts.student, parts.teacher, parts.data.train, processes)
        if files is None:
            title = published if baseline else [teacher_name or "none", *published]
            folders = utils / log_folder, utils / weights_folder / subfolder
            files = processes.first(partial(create_run, *folders, benchmark.label, title, published))
            if processes.is_first:
                stack.enter_context(owned(files.weights))
        config_text = dump(used_sections(cfg, method))
        meta = {
            "run": files.name,
            "launch": Launch().name,
            "processes": processes.size,
            "network": method.student_name(cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER),
            "arguments": cfg.DISTILLER.STUDENT_ARGS,
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
        log: RunLog | QuietLog = QuietLog()
        if processes.is_first:
            wandb = start_wandb(cfg, files)
            log = stack.enter_context(RunLog(files, config_text, wandb, state and state["log"], judged_on))
        trainer = Trainer(cfg, distiller, parts.data, files, log, meta, processes)
        if saved and state:
            saved.load_into(trainer)
            for line in saved.describe(trainer):
                log.line(line)
        else:
            log.line("===== New Logging Session Started =====")
            running = f"student={student_name}, teacher={teacher_name}, distiller={label}"
            log.line(f"Running main with {running}", wrap=False)
            networks = {"teacher": parts.teacher, "student": distiller.student}
            for line in describe_run(cfg, meta, parts.data, networks, files, processes.size):
                log.line(line)
            if method.takes_new_sections:
                log.line(f"Settings: from {source}" if source else "Settings: defaults, as there is no --cfg")
            if parts.teacher is not None:
                log.line(f"Teacher's weights: {cfg.DISTILLER.TEACHER_WEIGHTS}")
                checksum = cfg.DISTILLER.TEACHER_SHA256[:16]
                log.line(f"Teacher's Top-1 Accuracy: {parts.teacher_top1:.2f}, SHA-256 {checksum}")
            for note in (*parts.notes, *hints(cfg), *hint_of_devices(device, processes.size, files)):
                log.line(note)
        with explained(trainer):
            return trainer.fit(), files


def build_parts(
    cfg: CN, benchmark: Benchmark, device: torch.device, utils: Path, processes: Processes = ONE, goes_on: bool = False
) -> Parts:
    """The images and networks that `cfg` names, the global generators seeded for what draws from them next.

    goes_on: a saved state will replace the student's weights; the file that it once began with need not be there.
    """
    models, needs_teacher = benchmark.models_for(cfg.DATASET.TYPE), find_method(cfg.DISTILLER.TYPE).needs_teacher
    options: dict[str, Any] = {"share": processes.share, "memory_format": memory_format_of(cfg)}
    data = build_data(cfg, device, cfg.EXPERIMENT.SEED, **options) if processes.is_first else None
    hold = processes.first(lambda: data is not None and isinstance(data.train.image_set, ImageSet))
    with processes.in_turn():
        data = data or build_data(cfg, device, cfg.EXPERIMENT.SEED, **options, hold=hold)
    if data.num_classes < 2:
        raise UserError(f"the data has one class only, {data.classes[0]!r}; expected two or more class folders")
    if cfg.LOG.WANDB:
        import_wandb()
    notes, teacher_top1 = [data.note] if data.note else [], None
    notes += arguments_told(cfg, needs_teacher)
    splits = ["train", "test", *(["val"] if "val" in data.fingerprints else [])]
    found = {
        "DATASET.FINGERPRINT": ("images", "-".join(data.fingerprints[split] for split in splits)),
        "DISTILLER.TYPE_SHA256": ("distiller's file", find_method(cfg.DISTILLER.TYPE).checksum()),
        "DISTILLER.STUDENT_FILE_SHA256": ("student's network file", checksums_of(cfg, "STUDENT")),
        "EXPERIMENT.VERSIONS": ("code", describe_code(describe_versions()["versions"])),
    }
    if needs_teacher:
        found["DISTILLER.TEACHER_FILE_SHA256"] = ("teacher's network file", checksums_of(cfg, "TEACHER"))
    for key, (what, now) in found.items():
        if leaves(cfg)[key] not in ("", now):
            has = "have" if what == "images" else "has"
            notes.append(f"Warning: the {what} {has} changed since the run of this config; its numbers may differ")
        cfg = changed(cfg, key, now)
    seed_everything(cfg.EXPERIMENT.SEED)
    student, teacher = build_student(cfg, models, data.num_classes), None
    path = cfg.DISTILLER.STUDENT_WEIGHTS
    if path and not (goes_on and not Path(path).exists()):
        if load_weights(student, path, cfg.DISTILLER.STUDENT, keeps_classifier=True).get("kept"):
            notes.append("The student's classifier is new: its weights are of other classes")
        sha256 = sha256_of(path)
        if cfg.DISTILLER.STUDENT_SHA256 not in ("", sha256):
            notes.append("Warning: the student's weights have changed since the run of this config")
        cfg = changed(cfg, "DISTILLER.STUDENT_SHA256", sha256)
    freeze(student, cfg.DISTILLER.FREEZE, cfg.DISTILLER.STUDENT)
    if needs_teacher:
        cfg, teacher, teacher_top1, found_notes = build_teacher(cfg, benchmark, data, utils, device, processes)
        notes += found_notes
    return Parts(cfg, data, student, teacher, teacher_top1, notes)
