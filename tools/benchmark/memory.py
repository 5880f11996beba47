"""Memory that functions take at their peak."""

import gc
import itertools

import torch
from torch.profiler import ProfilerActivity

from .profiling import trace_of


def with_peak_memory(run, device):
    """What `run` returns, and the MiB that PyTorch took from the GPU for it at its peak; None on a CPU.

    What is reserved, not what is in tensors: CUDA graphs keep memory that no tensor shows.
    """
    if device.type != "cuda":
        return run(), None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    result = run()
    return result, (torch.cuda.max_memory_reserved(device) - before) / 2**20


def extra_memory(run, device):
    """MiB that tensors made by `run` take at its peak: CUDA's own count, or the CPU allocator's events."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in trace_of(profiler) if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes), default=0) / 2**20


def memory_note(device):
    counted = "torch.cuda.max_memory_allocated" if device.type == "cuda" else "the profiler's memory events"
    return f"peak MiB: of the tensors that one forward and backward makes, by {counted}"
