"""What TensorBoard shows beside scalars: runs under short names, hyper-parameters and config, pictures."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mdistiller.checks import is_number

from .values import leaves, parse_yaml

FOLDER = "tensorboard"  # below a `Utils` folder: a link to each run's folder of events
LONGEST_NAME = 39  # characters; TensorBoard cuts longer ones off where they differ
RUN = re.compile(r"experiment_.+?_\d{4}-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)(-\d+)?_(.+)")
METRICS = "top1", "best_top1", "loss"
LEFT_OUT = ("LOG",)


def link_runs(utils: Path) -> Path:
    """Have a folder below `utils` hold each of its runs' events under a short name, for `tensorboard --logdir`.

    Returns it, or `utils`, whose runs have long names, where the system takes no links.
    """
    folder = utils / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for link in folder.iterdir():
            if link.is_symlink() and not link.exists():  # its run is gone
                link.unlink(missing_ok=True)
        for run in utils.glob("*_train_log/experiment_*/"):
            with contextlib.suppress(FileExistsError):
                (folder / short_name(run.name)).symlink_to(os.path.relpath(run, folder), target_is_directory=True)
    except OSError:
        return utils
    return folder


def short_name(stem: str) -> str:
    """A run's name in at most LONGEST_NAME characters, from that of its folder; times sort as they do there."""
    match = RUN.fullmatch(stem)
    if match is None:
        return stem[-LONGEST_NAME:]
    month, day, hour, minute, second, again, title = match.groups()
    time = f"{month}{day}-{hour}{minute}{second}{again or ''}"
    room = LONGEST_NAME - len(time) - 1
    if len(title) > room:  # the end, which names the method, tells the most
        title = f"{title[: room // 3]}..{title[len(title) - room + room // 3 + 2 :]}"
    return f"{time}_{title}"


class EventFile:
    """A run's events in a file of `folder`; written at once, so that an OSError is raised where it happens.

    first_step: of what follows; what older files have from there on is not shown.
    """

    def __init__(self, folder: Path, first_step: int = 1):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # takes long to import, and only runs need it
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event = Event
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = (folder / name).open("xb")
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(session_log=SessionLog(status=SessionLog.START), step=first_step)
        self.file.flush()

    def add_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Write numbers by their tags."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in values.items():
            self._write(summary=scalar(tag, value), step=epoch)
        self.file.flush()

    def add_image(self, tag: str, pixels: torch.Tensor, epoch: int) -> None:
        """Write a picture, uint8 (3, height, width)."""
        from torch.utils.tensorboard.summary import image

        self._write(summary=image(tag, pixels, dataformats="CHW"), step=epoch)
        self.file.flush()

    def add_settings(self, config_text: str, split: str) -> None:
        """Write a run's config, as text and as hyper-parameters beside the results on `split`.

        It takes no folder of its own, as `add_hparams` does.
        """
        from torch.utils.tensorboard.summary import hparams, text

        indented = "\n".join(f"    {line}" for line in config_text.splitlines())  # a block of code in Markdown
        sections = {k: v for k, v in parse_yaml(config_text, "config").items() if k not in LEFT_OUT}
        values = {key: value if is_number(value) else str(value) for key, value in leaves(sections).items()}
        experiment, start, _ = hparams(values, dict.fromkeys(f"{split}/{name}" for name in METRICS))
        for summary in (text("config", indented), experiment, start):
            self._write(summary=summary)
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _write(self, **fields: Any) -> None:
        self.records.write(self.event(wall_time=time.time(), **fields).SerializeToString())
