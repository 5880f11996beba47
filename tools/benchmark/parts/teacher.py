"""Part `teacher`: the teacher's forward, one gain after the other."""

import copy
import functools

import torch

from mdistiller.engine.precision import Precision, compile_network, set_backends
from mdistiller.models.folding import fold_batch_norms

from ..memory import with_peak_memory
from ..plain import set_plain_backends
from ..report import Report, Row
from ..settings import EXACT, precisions, with_settings
from ..timing import alternate_calls
from ..way import WARM_UP_STEPS
from ..workload import SIDE, build_networks, config_of


def measure(flags):
    report, device = Report(), flags.device
    for batch_size in flags.batch_size:
        torch.compiler.reset()
        cfg = config_of(flags, batch_size)
        _, teacher = build_networks(cfg)
        folded = fold_batch_norms(teacher)
        ways = {"plain": (teacher, False, EXACT), "channels-last": (teacher, True, EXACT)}
        for name, values in precisions(device, flags.compile).items():
            gains = "channels-last", "folded", *name.split(", ")
            ways[", ".join(gain for gain in gains if gain != "float32")] = folded, True, values
        image = torch.randn(batch_size, 3, SIDE, SIDE, device=device)
        calls, memory = {}, {}
        for name, (network, is_channels_last, values) in ways.items():
            make = functools.partial(prepared_forward, network, image, is_channels_last, with_settings(cfg, values))
            calls[name], memory[name] = with_peak_memory(make, device)
        seconds = alternate_calls(calls, flags)
        what = f"{cfg.DISTILLER.TEACHER} forward, batch {batch_size}"
        report.rows += [Row(what, name, value, batch_size, memory[name]) for name, value in seconds.items()]
    return report


def prepared_forward(network, image, is_channels_last, cfg):
    """A function that runs a copy of `network`, laid out for it and warmed up, on `image`."""
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    network = copy.deepcopy(network).eval().requires_grad_(False).to(image.device, memory_format=layout)
    image = image.to(memory_format=layout)
    if cfg.SOLVER.COMPILE:
        is_cuda = image.device.type == "cuda"
        compile_network(network, **({"mode": "reduce-overhead"} if is_cuda else {"options": {"freezing": True}}))

    precision = Precision(cfg.SOLVER, image.device)

    def forward():
        set_backends(cfg.SOLVER) if is_channels_last else set_plain_backends()
        with torch.no_grad(), precision:
            return network(image)

    for _ in range(WARM_UP_STEPS):
        forward()
    return forward
