"""Part `processes`: a step of several processes, and how much of it goes into what one alone need not do.

Start it by torchrun. Three ways take turns: "alone", each process trains on its part of the batch for itself;
"averaged", and then averages gradients and sums of the meter; "together", and also computes losses of the whole batch
where these need it.
"""

import copy

from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING
from mdistiller.engine.cfg import changed
from mdistiller.engine.distributed import ONE, join

from ..report import Report, Row
from ..timing import alternate
from ..training import Training
from ..workload import build_networks, config_of, random_images, title_of

EVERY_METHOD = "all"


def measure(flags):
    processes, report = join(flags.device), Report()
    methods = (
        [name for name in DISTILLERS if name != PLAIN_TRAINING] if flags.method == EVERY_METHOD else [flags.method]
    )
    for batch_size in flags.batch_size:
        for flags.method in methods:
            add_rows(report, config_of(flags, batch_size), processes, flags)
    processes.leave()
    return report


def add_rows(report, cfg, processes, flags):
    title = f"{title_of(cfg)}, {processes.size} processes"
    parts = copy.copy(processes)
    parts.whole = parts.own = lambda tensor: tensor
    ways = {"alone": ONE, "averaged": parts, "together": processes}
    if processes.size == 1:
        ways, title = {"alone": ONE}, title_of(cfg)
    runs = {}
    for way, those in ways.items():
        batch_size = cfg.SOLVER.BATCH_SIZE // (1 if those is not ONE else processes.size)
        own = changed(cfg, "SOLVER.BATCH_SIZE", batch_size)
        training = Training(own, *build_networks(own), random_images(flags.steps * batch_size), flags.device, those)

        training.prepare()

        def run(training=training):
            processes.wait()
            training.train_epoch()

        runs[way] = run
    seconds = alternate(runs, flags.repeats, flags.device)
    images = cfg.SOLVER.BATCH_SIZE
    report.rows += [Row(title, way, seconds[way] / flags.steps, images) for way in ways]
    if processes.size > 1:
        together = seconds["together"]
        exchange, whole = seconds["averaged"] - seconds["alone"], together - seconds["averaged"]
        report.notes.append(
            f"{title}: of a step together {exchange / together:.1%} goes into averaging, {whole / together:.1%} into "
            "losses of the whole batch"
        )
