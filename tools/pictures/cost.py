"""Picture `cost`: the time of a training step by method, measured now, on random images."""

import argparse
import dataclasses
import platform
import statistics

import torch

from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.lines import count
from mdistiller.engine.metrics import progress_bar
from tools.benchmark.timing import seconds_of
from tools.benchmark.training import Training
from tools.benchmark.workload import build_networks, config_of, random_images

from . import style

TEACHER, STUDENT = "resnet56", "resnet20"
BATCH_SIZE, STEPS, REPEATS = 64, 10, 5
ALONE = "no teacher"


@dataclasses.dataclass
class Times:
    """Seconds of one step of a method, one a repeat."""

    name: str
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.seconds)


def draw(flags, project):
    pair = flags.teacher or TEACHER, flags.student or STUDENT
    batch_size = flags.batch_size or BATCH_SIZE
    names = flags.inputs or CIFAR100.published
    configs = [config_of_method(name, pair, batch_size, flags.device) for name in (PLAIN_TRAINING, *names)]
    titles = [ALONE, *(find_method(cfg.DISTILLER.TYPE).__name__ for cfg in configs[1:])]
    trainings = {title: training_of(cfg, flags.device) for title, cfg in zip(titles, configs, strict=True)}
    alone, *rest = found = measure(trainings, flags.device)
    print(f"{alone.name} {1000 * alone.median:.1f} ms a step")
    for times in rest:
        print(f"{times.name} {1000 * times.median:.1f} ms a step, {times.median / alone.median:.2f} times {ALONE}")
    return chart(found, f"{pair_of(configs)}, batch {batch_size}, {name_of(flags.device)}")


def config_of_method(method, pair, batch_size, device):
    """The config of a method's preset. Raises UserError for names of none."""
    flags = argparse.Namespace(teacher=pair[0], student=pair[1], method=method, augment="weak", device=device)
    return config_of(flags, batch_size)


def training_of(cfg, device):
    """The project's trainer of the method that `cfg` names, warmed up."""
    student, teacher = build_networks(cfg)
    teacher = teacher if find_method(cfg.DISTILLER.TYPE).needs_teacher else None
    training = Training(cfg, student, teacher, random_images(STEPS * cfg.SOLVER.BATCH_SIZE), device)
    training.prepare()
    return training


def measure(trainings, device):
    """The `Times` of each of `trainings`, by its name; they take turns."""
    found = {name: Times(name) for name in trainings}
    with progress_bar("Timing", None) as bar:
        for _ in range(REPEATS):
            for name, training in trainings.items():
                found[name].seconds.append(seconds_of(training.train_epoch, device) / STEPS)
                bar.update(len(training.image_set))
    return list(found.values())


def chart(found, title):
    """Bars, the longest on top, whose thin lines reach from the shortest time to the longest."""
    alone = found[0]
    order = sorted(found, key=lambda times: times.median)
    figure, (axes,) = style.sheet(1, 1, 16 + 5 * len(order))
    for place, times in enumerate(order):
        median, low, high = (1000 * value for value in (times.median, min(times.seconds), max(times.seconds)))
        axes.barh(place, median, height=0.7, color=style.INK if times is alone else style.COLOURS[0])
        axes.plot([low, high], [place, place], color=style.COLOURS[1], linewidth=0.8)
        axes.text(high, place, f"  {median:.0f} ({times.median / alone.median:.1f}x)", va="center", fontsize=6)
    axes.set_yticks(range(len(order)), [times.name for times in order])
    axes.set_xlim(0, 1250 * max(max(times.seconds) for times in order))
    axes.set_xlabel(f"ms a step (times {ALONE}); median, least and most of {REPEATS}")
    axes.set_title(title, loc="left")
    return figure


def pair_of(configs):
    """The networks' own names, as configs have them: a teacher's where a method has one."""
    teachers = [cfg.DISTILLER.TEACHER for cfg in configs if find_method(cfg.DISTILLER.TYPE).needs_teacher]
    return " → ".join([*teachers[:1], configs[0].DISTILLER.STUDENT])


def name_of(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {count(torch.get_num_threads(), 'thread')}"
