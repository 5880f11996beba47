"""Train one network without a teacher on ImageNet; --help lists the flags, --list the indices."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mdistiller.engine.cli import run_script, training_main
from mdistiller.engine.index import IMAGENET

if __name__ == "__main__":
    sys.exit(run_script(training_main, IMAGENET, Path(__file__).resolve().parent))
