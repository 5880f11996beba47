"""How long runs will take, by a few steps of each."""

import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data, build_data
from mdistiller.distillers import find_method
from mdistiller.engine.distributed import ONE
from mdistiller.engine.ensemble import Ensemble
from mdistiller.engine.freezing import set_train_mode
from mdistiller.engine.metrics import evaluate
from mdistiller.engine.networks import arguments_of, build_student, split
from mdistiller.engine.precision import set_backends
from mdistiller.engine.run import assemble, memory_format_of
from mdistiller.engine.trainer import Trainer
from mdistiller.models import build_model

from .run import Run

WARM_UP, STEPS = 1, 3
START = 10  # seconds, of imports and of reading


class Calibration:
    """Measures runs on `device`, with untrained teachers; the data of the last one is kept."""

    def __init__(self, device: torch.device):
        self.device = device
        self.data: tuple[str, Data] | None = None

    def seconds(self, run: Run) -> float:
        """What `run` will take. Raises UserError where its images are not there, or its networks do not fit."""
        cfg, data = run.config, self.data_of(run.config)
        models = run.benchmark.models_for(cfg.DATASET.TYPE)
        student, teacher = build_student(cfg, models, data.num_classes), None
        if find_method(cfg.DISTILLER.TYPE).needs_teacher:
            arguments = arguments_of(cfg.DISTILLER.TEACHER_ARGS, "DISTILLER.TEACHER_ARGS", cfg.DISTILLER.TEACHER)
            size = cfg.DISTILLER.TEACHER_IMAGE_SIZE or data.image_size
            names = split(cfg.DISTILLER.TEACHER)
            networks = [build_model(models, name, data.num_classes, arguments, size) for name in names]
            teacher = networks[0] if len(networks) == 1 else Ensemble(networks)
        distiller = assemble(cfg, student, teacher, data.train)
        trainer = Trainer(cfg, distiller, data, None, None, {}, ONE)
        trainer.checkpointer.seconds = 0  # there is no file to save to
        set_backends(cfg.SOLVER)
        set_train_mode(distiller, cfg)
        batches = islice(data.train, WARM_UP + STEPS)
        times = [self.timed(self.step, trainer, batch) for batch in batches]
        step = statistics.median(times[WARM_UP:] or times)
        judging = self.timed(evaluate, student, [*islice(data.test, 1)]) * len(data.test)
        return START + cfg.SOLVER.EPOCHS * (step * len(data.train) + judging)

    def data_of(self, cfg: CN) -> Data:
        key = f"{cfg.DATASET} {cfg.SOLVER.BATCH_SIZE} {cfg.SOLVER.CHANNELS_LAST}"
        if self.data is None or self.data[0] != key:
            options = {"memory_format": memory_format_of(cfg)}
            self.data = key, build_data(cfg, self.device, cfg.EXPERIMENT.SEED, **options)
        return self.data[1]

    def step(self, trainer: Trainer, batch: dict) -> None:
        trainer.train_step(batch)
        trainer.meter.read()  # which waits for the device

    def timed(self, function: Callable, *arguments: object) -> float:
        started = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - started
