"""What the errors of libraries become: one line where their meaning is known, themselves where it is not."""

import errno
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mdistiller.engine.failures import explain, explained
from mdistiller.engine.metrics import Meter
from mdistiller.engine.runs import PROJECT
from mdistiller.errors import UserError


@pytest.fixture
def trainer(tmp_path):
    files, solver = SimpleNamespace(last=tmp_path / "last.pth"), SimpleNamespace(BATCH_SIZE=7)
    cfg = SimpleNamespace(SOLVER=solver)
    checkpointer = SimpleNamespace(place=(0, 2, 0))
    data = SimpleNamespace(train=SimpleNamespace(num_images_per_epoch=1))
    return SimpleNamespace(
        where="epoch 3",
        checkpointer=checkpointer,
        files=files,
        cfg=cfg,
        data=data,
        meter=Meter(),
        distiller=torch.nn.Identity(),
    )


KILLING = """
import sys
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import FileLoader
from mdistiller.engine.cli import run_script

def main(root):
    loader = FileLoader(find_images(root, "train"), 1, (0, 0, 0), (1, 1, 1), 48, workers=2)
    for _ in loader:
        loader._decoded._iterator._workers[0].kill()

sys.exit(run_script(main, sys.argv[1]))
"""


def test_a_killed_worker_is_one_line(photographs):
    result = subprocess.run([sys.executable, "-c", KILLING, photographs], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"was killed.*DATASET.NUM_WORKERS 0", line)


NO_ROOM = """
def refuse(tensor):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

import torch
torch.Tensor.share_memory_ = refuse
"""


def test_batches_that_do_not_fit_into_shared_memory_are_one_line(photographs):
    code = NO_ROOM + KILLING
    result = subprocess.run([sys.executable, "-c", code, photographs], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 2 and re.fullmatch(r"error: .*/dev/shm.*DATASET.NUM_WORKERS 0.*\n", result.stderr)


@pytest.mark.parametrize("message", ["shapes do not fit", "Caught RuntimeError in DataLoader worker process 0."])
def test_other_errors_are_not_explained(message, trainer):
    assert explain(RuntimeError(message)) is None
    with pytest.raises(RuntimeError, match=message), explained(trainer):
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "smaller SOLVER.BATCH_SIZE"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "smaller SOLVER.BATCH_SIZE"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "smaller SOLVER.BATCH_SIZE"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "smaller SOLVER.BATCH_SIZE"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"), "ulimit -n"),
        (RuntimeError("can't start new thread"), "DATASET.NUM_WORKERS 0"),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), "/dev/shm"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.bin"), "some.bin: No space left on device; make room"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, advice):
    assert advice in str(explain(error))


def test_a_batch_of_one_value_a_channel_names_the_batch_size(trainer):
    norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(UserError, match=r"batch norm.*another SOLVER\.BATCH_SIZE than 7"), explained(trainer):
        norm(torch.ones(1, 3, 1, 1))


def test_one_value_a_channel_in_another_batch_is_not_put_down_to_the_last(trainer):
    trainer.data.train.num_images_per_epoch = 8
    with pytest.raises(ValueError, match="more than 1 value"), explained(trainer):
        torch.nn.BatchNorm2d(3)(torch.ones(1, 3, 1, 1))


def test_a_matrix_that_cannot_be_factored_is_put_down_to_the_loss_that_failed_first(trainer):
    trainer.meter.update({"loss_kd": torch.tensor(torch.nan)}, torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    with (
        pytest.raises(UserError, match=r"loss_kd at step 1 .* is not finite in epoch 3.*epoch 2 is kept in"),
        explained(trainer),
    ):
        torch.linalg.cholesky(torch.zeros(2, 2))


def test_a_matrix_that_cannot_be_factored_is_the_method_s_where_all_losses_were_finite(trainer):
    with pytest.raises(UserError, match=r"a matrix of Identity is not finite in epoch 3"), explained(trainer):
        torch.linalg.cholesky(torch.zeros(2, 2))
