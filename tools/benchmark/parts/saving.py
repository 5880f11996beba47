"""Part `saving`: writing the state that a run goes on from, beside the epoch after which it is written."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

from mdistiller.engine.checkpoint import Checkpointer
from mdistiller.engine.runlog import QuietLog

from ..report import Report, Row
from ..timing import alternate
from ..training import Training
from ..workload import build_networks, config_of, first_images, random_images, title_of

IMAGES = 50_000  # of CIFAR-100's training set


def measure(flags):
    report, image_set = Report(), random_images(IMAGES)
    for batch_size in flags.batch_size:
        cfg = config_of(flags, batch_size)
        training = Training(cfg, *build_networks(cfg), image_set, flags.device)
        few = training.loader(first_images(image_set, flags.steps * batch_size))
        trainer = training.trainer
        with tempfile.TemporaryDirectory() as folder:
            files = SimpleNamespace(last=Path(folder, "last.pth"), previous=Path(folder, "previous.pth"))
            trainer.log = QuietLog()

            def save(trainer=trainer, files=files):
                Checkpointer(trainer.cfg.LOG, files).save(trainer)

            seconds = alternate(
                {"steps": lambda few=few, training=training: training.train_on(few), "writing the state": save},
                flags.repeats,
                flags.device,
            )
            size = files.last.stat().st_size / 2**20
        images = flags.steps * batch_size
        epoch = seconds["steps"] / images * IMAGES * (2 if flags.augment == "weak+strong" else 1)
        report.rows += [
            Row(title_of(cfg), "a step", seconds["steps"] / len(few), images / len(few)),
            Row(title_of(cfg), "writing the state", seconds["writing the state"]),
        ]
        share = seconds["writing the state"] / epoch
        report.notes.append(
            f"batch {batch_size}: an epoch of {IMAGES:,} images takes {epoch:.1f} s at that speed, writing the state's "
            f"{size:.1f} MiB {share:.2%} of it"
        )
    return report
