"""Distil a teacher into a student on CIFAR-100; --help lists the flags, --list the indices."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mdistiller.engine.cli import distillation_main, run_script
from mdistiller.engine.index import CIFAR100

if __name__ == "__main__":
    sys.exit(run_script(distillation_main, CIFAR100, Path(__file__).resolve().parent))
