"""What the errors of libraries mean, in one line for the user."""

import contextlib
import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from mdistiller.distillers._folder import described, line_of
from mdistiller.distillers.foreign import ForeignDistiller
from mdistiller.errors import UserError

from .metrics import NotFinite

LOST_WORKER = re.compile(r"DataLoader worker .*(is killed by signal|exited unexpectedly)|unable to .* shared memory")
ONE_VALUE = re.compile(r"Expected more than 1 value per channel")


def explain(error: BaseException) -> UserError | None:
    """The UserError that says what `error`, of whatever part of a run, means; None where that is not known."""
    if isinstance(error, UserError):
        return error
    is_cut_off = isinstance(error, (ConnectionError, EOFError)) and passed_through(error, "multiprocessing")
    if is_cut_off or LOST_WORKER.search(str(error)):  # raised in whatever the main thread happens to be doing
        return UserError(
            "a process that decodes images was killed, by lack of memory or of shared memory (/dev/shm; a container's "
            "--shm-size); type DATASET.NUM_WORKERS 0, or fewer workers, or give it more"
        )
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):  # importing it takes a second
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return UserError(f"compiling the networks failed ({reason}); add SOLVER.COMPILE False")
    return None


def passed_through(error: BaseException, package: str) -> bool:
    """Whether `error` was raised below a function of `package`."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(package in frame.f_globals.get("__name__", "").split(".") for frame, _ in frames)


@contextlib.contextmanager
def explained(trainer: Any) -> Iterator[None]:
    """Within it, errors of libraries become a UserError that says what they mean for the run of `trainer`."""
    try:
        yield
    except Exception as error:
        explanation = explain(error) or explain_training(error, trainer)
        if explanation is None or explanation is error:
            raise
        raise explanation from error


def explain_training(error: Exception, trainer: Any) -> UserError | None:
    """As `explain`, for what training alone may raise."""
    images_left = trainer.data.train.num_images_per_epoch - trainer.meter.images
    if isinstance(error, ValueError) and ONE_VALUE.search(str(error)) and images_left == 1:
        return UserError(
            "the last batch of an epoch has one image, whose maps of one pixel no batch norm can normalise; "
            f"type another SOLVER.BATCH_SIZE than {trainer.cfg.SOLVER.BATCH_SIZE}"
        )
    if isinstance(error, NotFinite):
        what = str(error)
    elif isinstance(error, torch.linalg.LinAlgError):  # of weights that are no longer finite, more likely than not
        what = first_term_not_finite(trainer) or f"a matrix of {type(trainer.distiller).__name__}"
    elif isinstance(trainer.distiller, ForeignDistiller) and (line_of(error) or not isinstance(error, OSError)):
        # raised in the file, or later by the tensors that it made
        return UserError(f"{type(trainer.distiller).__name__} fails in epoch {trainer.epoch}: {described(error)}")
    else:
        return None
    epoch, last = trainer.epoch, trainer.files.last
    kept = f"epoch {epoch - 1} is kept in {last}" if epoch > 1 else "no epoch was finished"
    return UserError(f"{what} is not finite in epoch {epoch}, training stopped; {kept}; try a lower SOLVER.LR")


def first_term_not_finite(trainer: Any) -> str | None:
    try:
        if trainer.meter.steps:
            trainer.meter.read()
    except NotFinite as error:
        return str(error)
    return None
