"""What the device's rates of arithmetic and copying allow."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mdistiller.engine.precision import AMP_TYPES, set_backends

from .settings import main_settings, with_settings
from .timing import alternate
from .workload import SIDE

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}  # beyond any cache


def limits(cfg, student, teacher, settings, seconds, flags):
    """Lines on the time that the arithmetic of one step takes at the device's rates, and how near the ways get.

    settings: of SOLVER, by name; seconds: of one step, by the same names.
    """
    image = torch.randn(cfg.SOLVER.BATCH_SIZE, 3, SIDE, SIDE, device=flags.device)
    student, teacher = (copy.deepcopy(network).to(flags.device) for network in (student, teacher))
    operations = operations_of(student.train(), teacher.eval(), image)
    numbers = numbers_moved(teacher, image) + 3 * numbers_moved(student, image)  # backward: two such products
    bandwidth = copy_rate(flags)
    lines = [
        f"one step: {operations / 1e9:.3g} GFLOP, {numbers / 1e6:.3g} million numbers in and out of convolutions; "
        f"copying here: {bandwidth / 1e9:.3g} GB/s"
    ]
    for name, values in main_settings(settings).items():
        set_backends(with_settings(cfg, values).SOLVER)
        dtype = AMP_TYPES[values["AMP"]] or torch.float32
        rate = matrix_rate(dtype, flags)
        by_rate, by_bandwidth = operations / rate, numbers * dtype.itemsize / bandwidth
        lines.append(
            f"{name}: large products run at {rate / 1e9:.4g} GFLOP/s here, which allows {1000 * by_rate:.3g} ms a "
            f"step, the bandwidth {1000 * by_bandwidth:.3g} ms; reached: "
            f"{max(by_rate, by_bandwidth) / seconds[name]:.0%} of the larger"
        )
    return lines


def matrix_rate(dtype, flags):
    """Operations a second of a large product: of matrices or in a convolution, whose libraries differ, the faster."""
    side = MATRIX_SIDE[flags.device.type]
    a, b = (torch.randn(side, side, device=flags.device).to(dtype) for _ in range(2))
    channels, shape = side // 8, (32, side // 8, 32, 32)
    image, weight = (
        torch.randn(size, device=flags.device).to(dtype=dtype, memory_format=torch.channels_last)
        for size in (shape, (channels, channels, 3, 3))
    )
    products = {"matrices": lambda: a @ b, "convolution": lambda: nn.functional.conv2d(image, weight, padding=1)}
    operations = {"matrices": 2 * side**3, "convolution": 2 * 9 * channels * image.numel()}
    seconds = alternate(products, flags.repeats, flags.device)
    return max(operations[name] / seconds[name] for name in products)


def copy_rate(flags):
    """Bytes a second, read and written, of copying a large tensor."""
    source = torch.zeros(COPIED_BYTES[flags.device.type], dtype=torch.uint8, device=flags.device)
    target = torch.empty_like(source)
    seconds = alternate({"copy": lambda: target.copy_(source)}, flags.repeats, flags.device)["copy"]
    return 2 * source.numel() / seconds


def operations_of(student, teacher, image):
    """Operations of one step: the teacher's forward, the student's forward and backward."""
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            teacher(image)
        student(image)[0].sum().backward()
    return counter.get_total_flops()


def numbers_moved(network, image):
    """Numbers that a forward reads and writes if all between two convolutions costs nothing."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += inputs[0].numel() + output.numel() + module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total
