"""Part `epoch`: one epoch the plain way, in float32 and with --fast; on CUDA also what the profiler sees of each."""

from ..profiling import PROFILED_STEPS
from ..report import Report, Row
from ..settings import main_settings, settings_of
from ..training import build_trainings, time_epochs
from ..workload import build_networks, config_of, random_images, title_of


def measure(flags):
    report, is_cuda = Report(), flags.device.type == "cuda"
    image_set = random_images(flags.images or (50_000 if is_cuda else 1024))
    settings = main_settings(settings_of(flags.device, flags.compile))
    for batch_size in flags.batch_size:
        cfg = config_of(flags, batch_size)
        networks = build_networks(cfg)
        trainings, memory = build_trainings(cfg, *networks, image_set, settings, flags)
        seconds, steps, images = time_epochs(trainings, flags, warm_up=False)
        for name, value in seconds.items():
            report.rows.append(Row(title_of(cfg), name, value / steps, images / steps, memory[name]))
            line = f"batch {batch_size}, {name}: an epoch of {images:,} images takes {value:.2f} s"
            if is_cuda:
                waits, copies, busy = trainings[name].profile()
                line += (
                    f"; in {PROFILED_STEPS} steps under the profiler the host waits {waits:.2g} times a step, "
                    f"{copies:.2g} copies a step go to the host, the GPU is busy {busy:.0%} of the time"
                )
            report.notes.append(line)
        trainings["plain"].close()
    if is_cuda:
        report.notes.append("our waits are the progress bar's reading, at most twice a second")
    return report
