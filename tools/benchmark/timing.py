"""Times of functions that take turns."""

import contextlib
import statistics
import time

import torch

CPU = torch.device("cpu")
SECONDS_A_MEASUREMENT = 0.5  # for what is called many times


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run, device):
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def alternate(runs, repeats, device=CPU, warm_up=True):
    """Median seconds of each of `runs`, {name: function}, which take turns; warm_up: after a round not counted."""
    times = {name: [] for name in runs}
    for turn in range(repeats + warm_up):
        for name, run in runs.items():
            seconds = seconds_of(run, device)
            if turn >= warm_up:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def alternate_calls(calls, flags):
    """As `alternate`, for short functions: the seconds of one call, of as many as fill a while."""
    rounds = {}
    for name, call in calls.items():
        call()
        rounds[name] = max(1, min(flags.steps, int(SECONDS_A_MEASUREMENT / seconds_of(call, flags.device))))
    runs = {name: lambda call=call, n=rounds[name]: [call() for _ in range(n)] for name, call in calls.items()}
    seconds = alternate(runs, flags.repeats, flags.device, warm_up=False)
    return {name: seconds[name] / rounds[name] for name in calls}


@contextlib.contextmanager
def one_thread():
    """Within it PyTorch computes on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
