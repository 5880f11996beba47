"""Evaluate distilled students, or any weight file; --help lists the flags."""

import sys
from pathlib import Path

from mdistiller.engine.cli import evaluation_main, run_script

if __name__ == "__main__":
    sys.exit(run_script(evaluation_main, Path(__file__).resolve().parent))
