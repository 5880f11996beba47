"""Runs that are killed, inside writes too, and resumed end bit for bit as if they had never stopped."""

import csv
import multiprocessing
import os
import random
import re
import signal
import sys
import time

import pytest
import torch

from mdistiller.engine.cli import distillation_main, run_script, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from tests.engine.test_identity import folder_of

# A server that has imported the package and nothing else forks a process for each run.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["tests.engine.test_resume_after_kill", "torch._dynamo", "torch.utils.tensorboard.summary"]
)

SYNTHETIC = (
    "DATASET.TYPE synthetic DATASET.SYNTHETIC.TRAIN_IMAGES 72 DATASET.SYNTHETIC.TEST_IMAGES 36 SOLVER.BATCH_SIZE 16 "
    "SOLVER.EPOCHS 3 LOG.SAVE_STEPS 2 DATASET.IMAGE_SIZE 16"
).split()
PAIR = "--selected_student resnet8 --selected_teacher resnet8".split()
SMALL_VIT = "{patch_size: 4, embed_dim: 64, depth: 2, num_heads: 4, drop_path_rate: 0.1}"
PHOTOGRAPHS = (
    "DATASET.TYPE imagenet DATASET.IMAGE_SIZE 32 DATASET.NUM_WORKERS 2 SOLVER.BATCH_SIZE 4 SOLVER.LR 0.001 "
    "SOLVER.EPOCHS 3 LOG.SAVE_STEPS 1 DISTILLER.TEACHER MobileNetV1 DISTILLER.STUDENT MobileNetV1"
).split()
OTHERS = [
    ["--selected_teacher", "resnet8", "--selected_student", "torchvision:shufflenet_v2_x0_5"],
    [*PAIR[2:], "--selected_student", "timm:vit_tiny_patch16_224", "DISTILLER.STUDENT_ARGS", SMALL_VIT],
]
RECIPE = (
    "SOLVER.TYPE AdamW SOLVER.LR 0.003 SOLVER.SCHEDULER cosine SOLVER.WARMUP_EPOCHS 1 SOLVER.CLIP_GRAD 1 "
    "SOLVER.ACCUMULATE 3 SOLVER.EMA 0.7 SOLVER.LABEL_SMOOTHING 0.1 DATASET.MIXUP 0.4 DATASET.CUTMIX 1 "
    "DATASET.AUGMENT weak DATASET.RANDAUGMENT 9 DATASET.ERASING 0.25 DISTILLER.FREEZE [layer1]"
).split()
CASES = {
    "SKD": (CIFAR100, [*PAIR, "--distiller", "SKD", *SYNTHETIC]),
    "CRD": (CIFAR100, [*PAIR, "--distiller", "CRD", *SYNTHETIC, "CRD.NCE.K", "16"]),
    "DOT": (CIFAR100, [*PAIR, "--distiller", "KD", *SYNTHETIC, "SOLVER.TRAINER", "dot"]),
    "scaled": (CIFAR100, [*PAIR, "--distiller", "FitNet", *SYNTHETIC, "SOLVER.AMP", "fp16"]),
    "recipe": (CIFAR100, [*PAIR, "--distiller", "KD", *SYNTHETIC, *RECIPE]),
    "accumulated": (
        CIFAR100,
        [*PAIR, "--distiller", "SKD", *SYNTHETIC, "SOLVER.TRAINER", "dot", "SOLVER.ACCUMULATE", "3"],
    ),
    "initial": (CIFAR100, [*PAIR, "--distiller", "FT", *SYNTHETIC, "FT.INITIAL.EPOCHS", "2", "SOLVER.EMA", "0.7"]),
    "files": (IMAGENET, ["--distiller", "KD", *PHOTOGRAPHS]),
    "torchvision": (CIFAR100, [*OTHERS[0], "--distiller", "RKD", *SYNTHETIC]),
    "timm": (CIFAR100, [*OTHERS[1], "--distiller", "FitNet", *SYNTHETIC, "FITNET.HINT_LAYER", "1"]),
}
WRITES = "replace", "fsync"  # functions of os around which a write can be cut off
KILLS = int(os.environ.get("KILLS", 1))  # a case, by turns by time and within a write


def run(benchmark, utils, main, arguments, die_at, output):
    """A script's run in a process of its own. die_at: a number of WRITES, before or after which it kills itself."""
    sys.stdout = sys.stderr = output.open("a")
    torch.set_num_threads(1)
    calls = 0

    def dying(function):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for name in WRITES:
        setattr(os, name, dying(getattr(os, name)))
    status = run_script(main, benchmark, utils, arguments)
    sys.stdout.flush()
    os._exit(status)


class Runs:
    """A folder of a benchmark's runs, each in a process of its own."""

    def __init__(self, project, benchmark):
        self.benchmark, self.utils = benchmark, project / benchmark.folder / "Utils"
        self.utils.mkdir(parents=True)
        self.output = project / "output.txt"

    def __call__(self, main, *arguments, die_at=0, die_after=None):
        """Exit status of a run, which is killed after `die_after` seconds; negative where it was."""
        context = self.benchmark, self.utils, main, list(map(str, arguments)), die_at, self.output
        process = SERVER.Process(target=run, args=context)
        process.start()
        if die_after is not None:
            process.join(die_after)
            process.kill()
        process.join(120)
        return process.exitcode

    def result(self):
        """What a run leaves that must not depend on whether it was killed."""
        (last,) = self.utils.glob("model_distillation_pth/*/last.pth")
        (metrics,) = self.utils.glob("distiller_train_log/*/metrics.csv")
        (log,) = self.utils.glob("distiller_train_log/*.log")
        state = torch.load(last, weights_only=True)
        best = torch.load(last.with_name("best.pth"), weights_only=True)
        (published,) = self.utils.glob("model_distillation_pth/*.pth")
        keys = "finished", "best", "distiller", "optimizer", "average", "generators"
        training = {key: state["training"][key] for key in keys}
        with metrics.open() as file:
            rows = [
                {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
                for row in csv.DictReader(file)
            ]
        lines = [line.partition(" - ")[2] for line in log.read_text().splitlines()]
        numbers = [line for line in lines if re.match(r"(Epoch: |Initial |Train |Test |Best )", line)]
        numbers = [re.sub(r", \S*best.pth| took .*", "", line) for line in numbers]
        return {
            "student": state["model"],
            "training": training,
            "best": best["model"],
            "best epoch": best["meta"]["epoch"],
            "published": torch.load(published, weights_only=True)["model"],
            "rows": rows,
            "numbers": numbers,
        }


def assert_equal(ours, theirs, where=""):
    """Nested values, tensors bit for bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_and_resumed_ends_as_if_it_had_never_stopped(tmp_path, case):
    if case == "timm":
        pytest.importorskip("timm")
    benchmark, arguments = CASES[case]
    teacher = []
    if benchmark is IMAGENET:
        folder_of(tmp_path / "data", 0)
        (tmp_path / "data/test").rename(tmp_path / "data/val")
        arguments = [*arguments, "DATASET.ROOT", tmp_path / "data"]
        teacher = ["--selected_model", "MobileNetV1", *PHOTOGRAPHS[:-4], "DATASET.ROOT", tmp_path / "data"]
    else:
        teacher = ["--selected_model", "resnet8", *SYNTHETIC]
    trained = Runs(tmp_path / "teacher", benchmark)
    assert trained(training_main, *teacher) == 0, trained.output.read_text()
    (weights,) = trained.utils.glob("model_pth/*/best.pth")
    arguments = [*arguments, "--teacher_weights", weights]

    whole = Runs(tmp_path / "whole", benchmark)
    started = time.monotonic()
    assert whole(distillation_main, *arguments) == 0, whole.output.read_text()
    seconds, expected = time.monotonic() - started, whole.result()
    chance = random.Random(case)
    first = list(CASES).index(case) % 2
    for kill in range(first, first + KILLS):
        cut = Runs(tmp_path / str(kill), benchmark)
        how = {"die_at": chance.randint(1, 12)} if kill % 2 else {"die_after": chance.uniform(0.2, 1) * seconds}
        status = cut(distillation_main, *arguments, **how)
        if status == -signal.SIGKILL and list(cut.utils.glob("distiller_train_log/*.yaml")):
            status = cut(distillation_main, "--resume")
        elif status == -signal.SIGKILL:  # before it had a folder
            status = cut(distillation_main, *arguments)
        assert status == 0, f"{how}: {cut.output.read_text()}"
        assert_equal(cut.result(), expected, str(how))
