"""What is made of a profiler's trace."""

import pytest

from tools.benchmark.profiling import summary_of_trace


def test_a_trace_tells_waits_copies_and_the_busy_share():
    def event(category, name, start, duration):
        return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration}

    events = [
        event("user_annotation", "ProfilerStep#1", 0, 50),
        event("user_annotation", "ProfilerStep#2", 50, 50),
        event("gpu_user_annotation", "ProfilerStep#1", 0, 100),
        event("kernel", "convolution", -10, 20),
        event("kernel", "sum", 5, 15),
        event("kernel", "long", 30, 20),
        event("kernel", "inside the long one", 35, 5),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 90, 30),
        event("cuda_runtime", "cudaStreamSynchronize", 80, 5),
        event("cuda_runtime", "cudaMemcpyAsync", 85, 150),
        event("cuda_runtime", "cudaMemcpyAsync", 20, 5),
        event("cuda_runtime", "cudaDeviceSynchronize", 101, 20),
        {"ph": "i", "name": "[memory]", "ts": 1},
    ]
    waits, copies, busy = summary_of_trace(events)
    assert (waits, copies) == (1, 0.5)
    assert busy == pytest.approx((20 + 20 + 10) / 100)
