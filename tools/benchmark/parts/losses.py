"""Part `losses`: forward and backward of the losses that cost most, against their published forms."""

import torch

from mdistiller.distillers.NST import nst_loss
from mdistiller.distillers.RKD import angle_loss, distance_loss
from mdistiller.distillers.SKD import direction_loss
from tests.distillers.references import angle_loss_reference, direction_loss_reference, nst_loss_reference

from ..memory import extra_memory, memory_note
from ..report import Report, Row
from ..timing import alternate_calls
from ..workload import CLASSES

SKD_BATCHES, SKD_TIKHONOV = (64, 1024), 0.1
RKD_BATCHES, RKD_WIDTH, RKD_WEIGHTS = (64, 512), 128, (25, 50)
NST_BATCH, NST_MAPS = 64, ((32, 32, 32), (64, 16, 16), (128, 8, 8))


def loss_cases(device):
    """(what, {way: loss of two lists of tensors}, the students' tensors, the teachers') of the losses to compare."""

    def skd(loss):
        return lambda students, teachers: loss(students[0], teachers[0], SKD_TIKHONOV, scale=CLASSES)

    def rkd(loss):
        def total(students, teachers):
            pair, (of_distance, of_angle) = (students[0], teachers[0]), RKD_WEIGHTS
            return of_distance * distance_loss(*pair, squared=False, eps=1e-12) + of_angle * loss(*pair)

        return total

    def nst(loss):
        return lambda students, teachers: sum(map(loss, students, teachers))

    for name, make, ways, shapes in (
        *(("SKD direction", skd, (direction_loss_reference, direction_loss), [(b, CLASSES)]) for b in SKD_BATCHES),
        *(("RKD", rkd, (angle_loss_reference, angle_loss), [(b, RKD_WIDTH)]) for b in RKD_BATCHES),
        ("NST", nst, (nst_loss_reference, nst_loss), [(NST_BATCH, *shape) for shape in NST_MAPS]),
    ):
        generator = torch.Generator().manual_seed(0)
        students, teachers = ([torch.randn(s, generator=generator).to(device) for s in shapes] for _ in range(2))
        ways = {way: make(loss) for way, loss in zip(("published", "ours"), ways, strict=True)}
        yield f"{name}, batch {shapes[0][0]}", ways, [x.requires_grad_() for x in students], teachers


def measure(flags):
    report = Report()
    torch.backends.cuda.matmul.allow_tf32 = False
    for what, ways, students, teachers in loss_cases(flags.device):
        calls = {
            way: lambda loss=loss, s=students, t=teachers: torch.autograd.grad(loss(s, t), s)
            for way, loss in ways.items()
        }
        seconds = alternate_calls(calls, flags)
        report.rows += [Row(what, way, seconds[way], None, extra_memory(calls[way], flags.device)) for way in calls]
    report.notes.append(memory_note(flags.device))
    return report
