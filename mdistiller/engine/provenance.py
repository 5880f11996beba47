"""What a weight file tells of the data and of the code that made it."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode as CN

import mdistiller
from mdistiller.dataset import Data
from mdistiller.distillers import find_method

from .cfg import used_sections
from .identity import with_variant
from .launch import Launch
from .networks import label_of
from .runs import PROJECT
from .values import dump

SECONDS_FOR_GIT = 5


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


def about_run(
    cfg: CN, run: str, data: Data, models: str, teacher_top1: float | None = None, processes: int = 1
) -> dict[str, Any]:
    """What the weight files of the run called `run`, which `cfg` describes, tell of it.

    models: the dataset of `build_model`; teacher_top1: in percent; processes: that train together.
    """
    chosen, method = cfg.DISTILLER, find_method(cfg.DISTILLER.TYPE)
    return {
        "run": run,
        "launch": Launch().name,
        "processes": processes,
        "network": method.student_name(chosen.STUDENT, chosen.TEACHER),
        "arguments": chosen.STUDENT_ARGS,
        "models": models,
        "teacher": label_of(cfg, "TEACHER") if method.needs_teacher else None,
        "teacher_top1": teacher_top1,
        "teacher_sha256": chosen.TEACHER_SHA256 or None,
        "distiller": with_variant(method.__name__, cfg, method),
        "chosen_by": data.val_from or "test",
        "config": dump(used_sections(cfg, method)),
        **describe_data(cfg, data),
        **describe_versions(),
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


@functools.cache
def git_commit(folder: Path = PROJECT) -> str:
    """Short hash of the commit of the clone `folder`, with a + where files have changed since; empty for no clone."""
    if not (folder / ".git").exists():
        return ""
    commit = ask_git(folder, "rev-parse", "--short", "HEAD")
    return f"{commit}+" if commit and ask_git(folder, "status", "--porcelain") else commit or ""


def ask_git(folder: Path, *arguments: str) -> str | None:
    """What git answers, without its hooks, locks or settings of the environment; None where it does not."""
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS_FOR_GIT, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
