"""What makes a step fast beside the layout of memory: half precision, compilation, memory that is kept."""

import contextlib
import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdistiller.distillers import Distiller
from mdistiller.errors import UserError

AMP_TYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MMAP_THRESHOLD = 2**25  # bytes; the largest that glibc takes
BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of Intel and AMD, and of ARM


def fastest_settings(device: torch.device) -> dict[str, Any]:
    """Values of SOLVER's keys that train fastest on `device`: what `--fast` sets."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        amp = "bf16" if cpu_flags() & BF16_CPU_FLAGS else "none"
    return {"AMP": amp, "CHANNELS_LAST": True, "COMPILE": has_compiler()}


def cpu_flags() -> set[str]:
    """What the processor says that it can do; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}


def has_compiler() -> bool:
    """Whether there is the C++ compiler that `torch.compile` needs."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))


def set_backends(solver: Any) -> None:
    """Set what CUDA may trade for speed.

    Never TF32, which rounds the factors of float32 products to 10 bits: half precision leaves in float32 only what
    shall be exact, losses above all. Autotuning, by which cuDNN picks algorithms for their speed at the time, only
    where a run need not repeat itself bit for bit.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = solver.AMP != "none" or solver.COMPILE


def keep_freed_memory() -> None:
    """Have the C library keep what tensors on the CPU give back, for the next step; nothing where it is not glibc.

    By itself glibc returns much of it to the system, which hands it out again page by page, each cleared first. Tensors
    above MMAP_THRESHOLD still are returned, as keeping those of many sizes would fill the memory.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no mallopt, or no library to ask for it
        mallopt = c_library().mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class Precision:
    """A context for the forward pass of a step: networks compute in SOLVER.AMP, losses in float32 by themselves."""

    def __init__(self, solver: Any, device: torch.device):
        dtype = AMP_TYPES[solver.AMP]
        self.autocast = contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
        self.has_graphs = solver.COMPILE and device.type == "cuda"

    def __enter__(self) -> None:
        if self.has_graphs:  # they may overwrite now what the step before returned
            torch.compiler.cudagraph_mark_step_begin()
        self.autocast.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.autocast.__exit__(*error)


def gradient_scaler(solver: Any, device: torch.device) -> torch.amp.GradScaler | None:
    """Keeps small gradients from becoming 0 in fp16; None where the precision needs none."""
    return torch.amp.GradScaler(device.type) if solver.AMP == "fp16" else None


def compile_networks(distiller: Distiller, device: torch.device) -> None:
    """Compile the networks of `distiller` in place, for the batches that training repeats.

    On a CPU a student gains nothing, and a teacher by its weights being laid out once, as constants; one whose weights
    or statistics the method may change stays as it is.

    Raises UserError where there is no C++ compiler. Compiling itself comes with the first batch, and so do its errors.
    """
    if not has_compiler():
        raise UserError(
            "SOLVER.COMPILE needs a C++ compiler and there is no g++ or clang++; install one, or leave it out"
        )
    if device.type == "cpu":
        if distiller.teacher is not None and distiller.teacher_is_constant:
            compile_network(distiller.teacher, options={"freezing": True})
        return
    # CUDA graphs start the kernels of a whole network at once: small batches are not held up by launching them.
    for network in (distiller.student, distiller.teacher):
        if network is not None:
            compile_network(network, mode="reduce-overhead")


def compile_network(network: nn.Module, **options: Any) -> None:
    """Compile `network` in place, as one graph, for the first training batch's size and mode; others run as they did.

    A last smaller batch and evaluation, which would each be compiled anew, take a small part of the time.
    """
    eager = network.forward
    compiled = torch.compile(eager, fullgraph=True, dynamic=False, **options)
    compiled_for = None

    def forward(x):
        nonlocal compiled_for
        case = x.shape, network.training
        if compiled_for is None and not torch.is_inference_mode_enabled():  # as evaluation is
            compiled_for = case
        return compiled(x) if case == compiled_for else eager(x)

    network.forward = forward
