"""What makes a step fast beside the layout of memory: half precision, compilation, memory that is kept."""

import contextlib
import copy
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
TRITON_CAPABILITY = 7, 0  # of the oldest GPUs that it makes kernels for
BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of Intel and AMD, and of ARM


def fastest_settings(device: torch.device) -> dict[str, Any]:
    """Values of SOLVER's keys that train fastest on `device`: what `--fast` sets."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        amp = "bf16" if cpu_flags() & BF16_CPU_FLAGS else "none"
    return {"AMP": amp, "CHANNELS_LAST": True, "COMPILE": has_compiler() and is_compiled_for(device)}


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


def is_compiled_for(device: torch.device) -> bool:
    """Whether Triton, by which `torch.compile` makes kernels of a GPU, knows a GPU as old as `device`."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= TRITON_CAPABILITY


def set_backends(solver: Any) -> None:
    """Set what CUDA may trade for speed.

    Never TF32, which rounds the factors of float32 products to 10 bits: half precision leaves in float32 only what
    shall be exact, losses above all. Autotuning, by which cuDNN picks algorithms for their speed at the time, only
    where a run need not repeat itself bit for bit.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = (solver.AMP != "none" or solver.COMPILE) and not solver.DETERMINISTIC


def make_deterministic(device: torch.device) -> None:
    """Have CUDA sum in one order, so that a run repeats itself bit for bit; what has no such algorithm raises.

    Before the first product on a GPU, whose library reads its setting then. Raises UserError on a CPU.
    """
    if device.type == "cpu":
        raise UserError("SOLVER.DETERMINISTIC has no effect on a CPU, whose runs repeat themselves; leave it out")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


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

    Raises UserError where there is no C++ compiler, or the GPU is too old. Compiling itself comes with the first batch,
    and so do its errors.
    """
    if not has_compiler():
        raise UserError(
            "SOLVER.COMPILE needs a C++ compiler and there is no g++ or clang++; install one, or leave it out"
        )
    if not is_compiled_for(device):
        raise UserError(
            f"SOLVER.COMPILE needs a GPU of compute capability {'.'.join(map(str, TRITON_CAPABILITY))} or more, which "
            f"{torch.cuda.get_device_name(device)} has not; leave it out"
        )
    distiller.train()  # the modes in which they are compiled
    if device.type == "cpu":
        if distiller.teacher is not None and distiller.teacher_is_constant:
            compile_network(distiller.teacher, options={"freezing": True})
        return
    # CUDA graphs start the kernels of a whole network at once: small batches are not held up by launching them.
    for network in (distiller.student, distiller.teacher):
        if network is not None:
            compile_network(network, mode="reduce-overhead")


def compile_network(network: nn.Module, **options: Any) -> None:
    """Compile `network` in place, as one graph, for the mode that it is in and the first batch's size.

    Others run as they did: a last smaller batch and evaluation, which would each be compiled anew, take a small part of
    the time. A copy of the network is not compiled.
    """
    network.forward = CompiledForward(network, **options)  # type: ignore[assignment]


class CompiledForward:
    """The forward of `network`, of which one case is compiled."""

    def __init__(self, network: nn.Module, **options: Any):
        self.network, self.is_training, self.eager = network, network.training, network.forward
        self.compiled = torch.compile(self.eager, fullgraph=True, dynamic=False, **options)
        self.shape: torch.Size | None = None  # of the batches that it was compiled for

    def __call__(self, x: torch.Tensor) -> Any:
        if self.network.training is not self.is_training:
            return self.eager(x)
        if self.shape is None:
            self.shape = x.shape
        return self.compiled(x) if x.shape == self.shape else self.eager(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The forward of a copied network, with that one's weights."""
        return copy.deepcopy(self.eager, memo)
