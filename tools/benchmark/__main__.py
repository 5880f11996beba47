"""Measure how fast this project is beside the plain way of published code, in one run; prints a table.

Parts: step, whole training steps with their data; epoch, one epoch, on CUDA with a profile of what the GPU waits for;
loader, augmented batches; teacher, its forward; losses, those that grow with the batch; crd, its negatives; files,
reading of photographs; saving, of the state that a run goes on from; processes, of several that torchrun starts. Times
are medians of repeats in which the ways take turns.
"""

import sys
from pathlib import Path

if not __package__:  # run as a folder, in which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from mdistiller.checks import whole
from mdistiller.dataset.streaming import available_cores
from mdistiller.engine.cli import run_script
from mdistiller.engine.flags import FlagParser
from mdistiller.engine.launch import select_device
from tools.benchmark.parts import crd, epoch, files, loader, losses, processes, saving, step, teacher
from tools.benchmark.report import table_of

PARTS = {
    "step": step.measure,
    "loader": loader.measure,
    "teacher": teacher.measure,
    "losses": losses.measure,
    "crd": crd.measure,
    "epoch": epoch.measure,
    "files": files.measure,
    "saving": saving.measure,
    "processes": processes.measure,
}
CHECKS = {
    "batch_size": whole(1, 65_536),
    "images": whole(1, 200_000),
    "steps": whole(1, 1_000_000),
    "repeats": whole(1, 1000),
    "workers": whole(0, 1024),
    "threads": whole(1, 1024),
    "image_size": whole(8, 1024),
}


def parse(arguments=None):
    parser = FlagParser(prog="benchmark", description=__doc__)
    parser.add_argument("--part", choices=PARTS, default="step")
    parser.add_argument("--teacher", default="resnet56", help="index or name, as in the scripts (default resnet56)")
    parser.add_argument("--student", default="resnet20", help="index or name (default resnet20)")
    parser.add_argument("--method", default="KD", help="index or name (default KD); all: of processes")
    parser.add_argument(
        "--augment", choices=("weak", "strong", "weak+strong"), default="weak", help="of step and epoch (default weak)"
    )
    parser.add_argument(
        "--batch_size", type=int, nargs="+", help="one or several (default 64; of epoch 64 512; of files 32)"
    )
    parser.add_argument(
        "--images", type=int, help="random images of epoch (default 50000 on CUDA, 1024 on a CPU) and loader (4096)"
    )
    parser.add_argument("--steps", type=int, default=20, help="of one measurement; at most so many, of short functions")
    parser.add_argument("--repeats", type=int, help="of which the median counts (default 5; of epoch 3)")
    parser.add_argument("--workers", type=int, help="of the plain loader (default 2, at most one a core)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default as it chooses)")
    parser.add_argument("--no_compile", dest="compile", action="store_false", help="leave compiled settings out")
    parser.add_argument("--device", help="cpu, cuda … (default CUDA where there is a GPU, else the CPU)")
    parser.add_argument("--root", default="data/imagenet", help="of files: photographs, in ROOT/val/<class>/")
    parser.add_argument("--image_size", type=int, default=224, help="of files")
    flags = parser.parse(arguments)
    for name, check in CHECKS.items():
        value = getattr(flags, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None:
                check.require(f"--{name}", number)
    flags.batch_size = flags.batch_size or {"epoch": [64, 512], "files": [32]}.get(flags.part, [64])
    flags.repeats = (3 if flags.part == "epoch" else 5) if flags.repeats is None else flags.repeats
    flags.workers = min(2, available_cores()) if flags.workers is None else flags.workers
    return flags


def main(arguments=None):
    flags = parse(arguments)
    flags.device = select_device(flags.device)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    name = torch.cuda.get_device_name(flags.device) if flags.device.type == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {flags.repeats}")
    report = PARTS[flags.part](flags)
    print("\n".join([table_of(report.rows), *report.notes]))
    if report.is_wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run_script(main))
