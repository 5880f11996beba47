"""What the profiler sees; of training on a GPU, what the host waits for and how long the GPU works."""

import json
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from .workload import first_images

PROFILED_STEPS = 20  # after as many others
WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"}
LONG_COPY = 100  # microseconds; a copy that lasts so long on the host waits for the GPU
GPU_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}


def trace_of(profiler):
    """The events of a finished torch profiler, as dicts of Chrome's trace format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


class ProfiledLoader:
    """A loader that tells `profiler` where a step ends."""

    def __init__(self, loader, profiler):
        self.loader, self.profiler = loader, profiler

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __iter__(self):
        for batch in self.loader:
            yield batch
            self.profiler.step()


def profile_steps(training):
    """`summary_of_trace` of PROFILED_STEPS steps of `training` on a GPU, in the middle of three times as many."""
    events = []
    profiler = torch.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
        schedule=torch.profiler.schedule(wait=PROFILED_STEPS - 1, warmup=1, active=PROFILED_STEPS, repeat=1),
        on_trace_ready=lambda profiler: events.extend(trace_of(profiler)),
    )
    images = first_images(training.image_set, 3 * PROFILED_STEPS * training.cfg.SOLVER.BATCH_SIZE)
    with profiler:
        training.train_on(ProfiledLoader(training.loader(images), profiler))
    return summary_of_trace(events)


def summary_of_trace(events):
    """Times a step that the host waits for the GPU, copies a step to the host, share of the time that the GPU works."""
    events = [event for event in events if event.get("ph") == "X"]
    steps = [e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith("ProfilerStep")]
    if not steps:
        raise RuntimeError("the profiler saw no step")
    start, end = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)
    inside = [e for e in events if start <= e["ts"] < end]
    waits = sum(e["name"] in WAITS or ("cudaMemcpy" in e["name"] and e["dur"] > LONG_COPY) for e in inside)
    copies = sum(e.get("cat") == "gpu_memcpy" and "DtoH" in e["name"] for e in inside)
    busy, reached = 0.0, start
    for event in sorted((e for e in events if e.get("cat") in GPU_WORK), key=lambda e: e["ts"]):
        stop = min(event["ts"] + event["dur"], end)
        busy += max(0.0, stop - max(event["ts"], reached))
        reached = max(reached, stop)
    return waits / len(steps), copies / len(steps), busy / (end - start)
