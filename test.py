"""Evaluate distilled students, or any weight file, on CIFAR-100; --help lists the flags."""

import sys
from pathlib import Path

from mdistiller.engine.cli import run_script, test_main

if __name__ == "__main__":
    sys.exit(run_script(test_main, Path(__file__).resolve().parent / "CIFAR-100" / "Utils"))
