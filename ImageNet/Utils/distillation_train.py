"""Distil a teacher into a student on ImageNet; --help lists the flags, --list the indices."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mdistiller.engine.cli import distillation_main, run_script
from mdistiller.engine.index import IMAGENET

if __name__ == "__main__":
    sys.exit(run_script(distillation_main, IMAGENET, Path(__file__).resolve().parent))
