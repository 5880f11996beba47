"""What the errors of libraries mean, in one line for the user."""

import contextlib
import errno
import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from mdistiller.distillers.foreign import ForeignDistiller
from mdistiller.errors import UserError
from mdistiller.folder_modules import described, line_of

from .describe import script_of, starter
from .distributed import LOST, explain_lost
from .launch import last_word
from .lines import command
from .metrics import NotFinite
from .networks import label
from .signals import Stopped
from .stages import epoch_of
from .writing import why

LOST_WORKER = re.compile(
    r"DataLoader worker .*(is killed by signal|exited unexpectedly)|unable to .*(shared memory|</?torch_)"
)
# What the machine lacks, by what libraries say of it, and what to type.
MEMORY = "out of memory; type a smaller SOLVER.BATCH_SIZE, or fewer DATASET.NUM_WORKERS"
LACKS = {
    r"Too many open files|received 0 items of ancdata": "type ulimit -n 4096 before it, or DATASET.NUM_WORKERS 0",
    r"can't start new thread|Resource temporarily unavailable": "type DATASET.NUM_WORKERS 0, or end other processes",
    r"out of memory|(can't|Cannot) allocate memory|not enough memory|Unable to allocate|STATUS_ALLOC_FAILED": MEMORY,
}
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
NOT_DETERMINISTIC = re.compile(r"(\w+) does not have a deterministic implementation")
ONE_VALUE = re.compile(r"Expected more than 1 value per channel")


def explain(error: BaseException) -> UserError | None:
    """The UserError that says what `error`, of whatever part of a run, means; None where that is not known."""
    if isinstance(error, UserError):
        return error
    if lack := explain_lack(error):
        return lack
    if lost := explain_lost(error):
        return lost
    is_cut_off = isinstance(error, (OSError, EOFError)) and passed_through(error, "multiprocessing")
    if is_cut_off or LOST_WORKER.search(str(error)):  # raised in whatever the main thread happens to be doing
        return UserError(
            "a process that decodes images was killed, by lack of memory or of shared memory (/dev/shm; a container's "
            "--shm-size); type DATASET.NUM_WORKERS 0, or fewer workers, or give it more"
        )
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):  # importing it takes a second
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        return UserError(f"compiling the networks failed ({reason}); add SOLVER.COMPILE False")
    if isinstance(error, RuntimeError) and (missing := NOT_DETERMINISTIC.search(str(error))):
        return UserError(f"{missing[1]} sums on a GPU in no fixed order; leave out SOLVER.DETERMINISTIC")
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        return UserError(f"{f'{error.filename}: ' if error.filename else ''}{why(error)}")
    return None


def explain_lack(error: BaseException) -> UserError | None:
    """The UserError for what the machine has too little of."""
    if isinstance(error, MemoryError):
        return UserError(MEMORY)
    if not isinstance(error, (OSError, RuntimeError)):
        return None
    for pattern, advice in LACKS.items():
        if match := re.search(pattern, str(error)):
            return UserError(advice if advice == MEMORY else f"{match[0]}; {advice}")
    return None


def passed_through(error: BaseException, package: str) -> bool:
    """Whether `error` was raised below a function of `package`."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(package in frame.f_globals.get("__name__", "").split(".") for frame, _ in frames)


@contextlib.contextmanager
def explained(trainer: Any) -> Iterator[None]:
    """Within it, errors of libraries become a UserError that says what they mean for the run of `trainer`.

    A signal's Stopped says in which epoch it came.
    """
    try:
        yield
    except Stopped as stopped:
        if reason := last_word():  # of another process, after whose end torchrun ends the others
            raise UserError(reason) from stopped
        start = starter(trainer.processes.share)
        resume = command("Resume:", *start, script_of(trainer.files), "--resume", trainer.files.name)
        raise Stopped(stopped.number, f" in {trainer.where}; {kept(trainer)}", resume) from stopped
    except Exception as error:
        explanation = explain(error) or explain_training(error, trainer)
        if explanation is not None and str(explanation) == LOST:
            explanation = UserError(f"{LOST} in {trainer.where}; {kept(trainer)}; resume the run by --resume")
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
    elif (strangers := strangers_of(trainer)) and (line_of(error) or not isinstance(error, OSError)):
        # raised in a file, or later by the tensors that it made
        return UserError(f"{' or '.join(strangers)} fails in {trainer.where}: {described(error)}")
    else:
        return None
    stopped = f"{what} is not finite in {trainer.where}, training stopped"
    return UserError(f"{stopped}; {kept(trainer)}; try a lower SOLVER.LR")


def explain_file(error: BaseException) -> UserError | None:
    """The UserError for what a user's file of a network or method raises, wherever it is called."""
    if not isinstance(error, Exception) or not line_of(error):
        return None
    return UserError(f"a file of a network or method fails: {described(error)}")


def strangers_of(trainer: Any) -> list[str]:
    """What in the run is not of this package, by name: the method of a file, networks of others."""
    method = type(trainer.distiller)
    contracts = [getattr(module, "contract", None) for module in trainer.distiller.modules()]
    networks = [label(contract.name) for contract in contracts if contract]
    return [*([method.__name__] if issubclass(method, ForeignDistiller) else []), *dict.fromkeys(networks)]


def kept(trainer: Any) -> str:
    """What a run that stops has saved, in words."""
    initial, finished, steps = trainer.checkpointer.place
    if steps > 0:
        return f"{steps} of its {len(trainer.data.train)} steps are kept in {trainer.files.last}"
    if finished > 0 or initial > 0:
        return f"{epoch_of(finished or initial, not finished)} is kept in {trainer.files.last}"
    return "no epoch was finished"


def first_term_not_finite(trainer: Any) -> str | None:
    try:
        if trainer.meter.steps:
            trainer.meter.read()
    except NotFinite as error:
        return str(error)
    return None
