"""The embedded default: distillation on synthetic images, end to end, in minutes on a CPU."""

from pathlib import Path

from mdistiller.distillers import label_of
from mdistiller.errors import UserError

from .benchmarks import Benchmark
from .cfg import dump, parse_yaml
from .checkpoint import read_weights
from .experiment import run_experiment
from .tables import align, shown

SUBFOLDER = "demo"  # keeps the demo's teacher apart from real ones


def run_demo(cfg, benchmark: Benchmark, device, utils: Path) -> None:
    """Train a teacher where there is none, the student alone and distilled, and print the three accuracies.

    cfg: that of the distillation; the other two networks are trained by the same, without a teacher.
    """
    teacher = baseline_of(cfg, cfg.DISTILLER.TEACHER)
    teacher_weights = utils / "model_pth" / SUBFOLDER / f"best_model_weights_{cfg.DISTILLER.TEACHER}.pth"
    teacher_top1 = accuracy_of(teacher_weights, teacher)
    if teacher_top1 is None:
        result, files = run_experiment(teacher, benchmark, device, utils, baseline=True, subfolder=SUBFOLDER)
        teacher_top1, teacher_weights = result.top1, files.best
    cfg.DISTILLER.TEACHER_WEIGHTS = str(teacher_weights)
    distilled, files = run_experiment(cfg, benchmark, device, utils)
    alone, _ = run_experiment(
        baseline_of(cfg, cfg.DISTILLER.STUDENT), benchmark, device, utils, baseline=True, subfolder=SUBFOLDER
    )
    rows = [
        ("teacher", cfg.DISTILLER.TEACHER, teacher_top1),
        ("student alone", cfg.DISTILLER.STUDENT, alone.top1),
        (f"student distilled by {label_of(cfg.DISTILLER.TYPE)}", cfg.DISTILLER.STUDENT, distilled.top1),
    ]
    print(f"\n{align([(role, network, f'top-1 {top1:.2f}') for role, network, top1 in rows])}")
    print(f"\nEvaluate:    python test.py --checkpoint {shown(files.best)}")
    print(f"TensorBoard: tensorboard --logdir {shown(files.folder.parent)}")


def baseline_of(cfg, network: str):
    """The config that trains `network` alone as `cfg` trains its student."""
    cfg = cfg.clone()
    cfg.DISTILLER.TYPE, cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER_WEIGHTS = "NONE", network, ""
    return cfg


def accuracy_of(weights: Path, cfg) -> float | None:
    """Top-1 of the network at `weights`, if it was trained as `cfg` says."""
    try:
        _, meta = read_weights(weights)
        then, now = (parse_yaml(text, "config") for text in (meta.get("config", ""), dump(cfg)))
    except UserError:
        return None
    is_same = all(then.get(section) == now[section] for section in ("EXPERIMENT", "DATASET", "SOLVER"))
    return meta.get("top1") if is_same else None
