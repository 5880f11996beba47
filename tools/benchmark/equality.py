"""Whether training in float32 gives the losses of the plain way."""

import copy
import itertools

import numpy as np
import torch

from .plain import PlainTraining
from .settings import with_settings
from .training import Training
from .workload import random_images

EQUAL_STEPS, EQUAL_TO = 20, 1e-4  # over which, and how nearly, losses must equal those of the plain way
EQUAL_LR = 0.01  # at the presets' 0.1 training from random weights makes 1e-3 of a single rounding within 20 steps
ROUNDING = 2**-24  # of float32, relative


def loss_differences(cfg, student, teacher, device):
    """The largest relative difference from the plain way's loss over EQUAL_STEPS steps of float32 from the same state.

    Returns that of ours, and that of the plain way from weights changed by one rounding: what no two ways can avoid.
    """
    cfg, image_set = with_settings(cfg, {"LR": EQUAL_LR}), random_images(EQUAL_STEPS * cfg.SOLVER.BATCH_SIZE)
    plain, changed = (PlainTraining(cfg, *copy.deepcopy((student, teacher)), image_set, device) for _ in range(2))
    ours = Training(cfg, *copy.deepcopy((student, teacher)), image_set, device)
    with torch.no_grad():
        for parameter in changed.distiller.student.parameters():
            parameter.mul_(1 + ROUNDING * torch.randn_like(parameter).sign())
    ours.set_backends()
    for distiller in (plain.distiller, changed.distiller, ours.trainer.distiller):
        distiller.train()
    differences = []
    for batch in itertools.islice(ours.loader(ours.image_set), EQUAL_STEPS):
        same = batch["image"].contiguous(), batch["target"], batch["index"]
        loss = plain.step(*same)[0]
        differences.append([abs(other - loss) / abs(loss) for other in (ours.step(batch), changed.step(*same)[0])])
    return np.max(differences, axis=0).tolist()  # NaN where one is


def check_losses(report, difference, of_rounding):
    """Note in `report` whether the losses are as near as they must be, and set `is_wrong` where not."""
    is_equal = difference < EQUAL_TO  # not of NaN
    report.is_wrong = report.is_wrong or not is_equal
    report.notes.append(
        f"losses of float32 and of the plain way over {EQUAL_STEPS} steps from the same state, at learning rate "
        f"{EQUAL_LR}: {'equal' if is_equal else 'FAILED'}, largest relative difference {difference:.1e} (allowed "
        f"{EQUAL_TO:.0e}; the plain way with weights changed by one rounding: {of_rounding:.1e})"
    )
