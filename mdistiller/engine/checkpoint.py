"""What a run goes on from: when it is written, and how it is read."""

import time
from pathlib import Path
from typing import Any

from mdistiller.errors import UserError

from .runs import RunFiles, shown
from .weights import read_checkpoint, save_checkpoint

SECONDS = 60  # a minute's


class Checkpointer:
    """Writes a trainer's state to `last.pth`, what it held before to `previous.pth`.

    log: the section LOG of the config, whose SAVE_STEPS and SAVE_MINUTES say how often within an epoch.
    """

    def __init__(self, log: Any, files: RunFiles):
        self.steps, self.seconds, self.files = log.SAVE_STEPS, log.SAVE_MINUTES * SECONDS, files
        self.saved_at, self.place = time.monotonic(), (-1, -1, -1)  # of the last state, as of `save`

    def maybe_save(self, trainer: Any) -> None:
        """Save where it is time to."""
        is_due = self.steps and trainer.steps % self.steps == 0
        if is_due or (self.seconds and time.monotonic() - self.saved_at >= self.seconds):
            self.save(trainer)

    def save(self, trainer: Any) -> None:
        """Save, unless that was done here already. Raises NotFinite where a loss or gradient has not been finite."""
        place = trainer.initial_finished, trainer.finished, trainer.steps
        if place == self.place:
            return
        trainer.meter.check()
        if not trainer.processes.is_first:  # which knows of the epochs that the first saves
            self.place = place if trainer.steps == 0 else self.place
            return
        content = {
            "model": trainer.student.state_dict(),
            "meta": trainer.about(),
            "training": trainer.state_dict(),
        }
        save_checkpoint(content, self.files.last, self.files.previous)
        self.saved_at, self.place = time.monotonic(), place


def read_state(files: RunFiles) -> tuple[dict[str, Any] | None, str | None]:
    """The content of the file that the run of `files` goes on from, and a warning where a newer one was lost.

    None where it was stopped before it saved anything. Raises UserError where all that it saved is damaged.
    """
    errors: list[UserError] = []
    for path in (files.last, files.previous):
        if not path.exists():
            continue
        try:
            content = read_training(path)
        except UserError as error:
            errors.append(error)
            continue
        if path == files.previous:
            reason = errors[0] if errors else f"{shown(files.last)} is missing"
            return content, f"Warning: {reason}; going on from the one before it"
        return content, None
    if errors:
        raise UserError(f"{errors[0]}; the run cannot go on, start a new one")
    return None, None


def read_training(path: Path) -> dict[str, Any]:
    """The content of the file `path`, with the state of a trainer. Raises UserError where it holds none."""
    content = read_checkpoint(path)
    if not isinstance(content.get("training"), dict) or "finished" not in content["training"]:
        raise UserError(f"weights {path} hold no state of a training; expected a {path.name} that a run wrote")
    return content
