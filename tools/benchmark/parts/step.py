"""Part `step`: whole training steps, data included, the plain way and in each setting."""

from ..equality import check_losses, loss_differences
from ..limits import limits
from ..report import Report, Row
from ..settings import settings_of
from ..training import build_trainings, time_epochs
from ..workload import build_networks, config_of, random_images, title_of


def measure(flags):
    report = Report()
    for batch_size in flags.batch_size:
        cfg = config_of(flags, batch_size)
        networks, settings = build_networks(cfg), settings_of(flags.device, flags.compile)
        check_losses(report, *loss_differences(cfg, *networks, flags.device))
        image_set = random_images(flags.steps * batch_size)
        trainings, memory = build_trainings(cfg, *networks, image_set, settings, flags)
        seconds, steps, images = time_epochs(trainings, flags, warm_up=True)
        seconds = {name: value / steps for name, value in seconds.items()}
        rows = [Row(title_of(cfg), name, value, images / steps, memory[name]) for name, value in seconds.items()]
        report.rows += rows
        report.notes += limits(cfg, *networks, settings, seconds, flags)
        trainings["plain"].close()
    return report
