"""What the values of the config must be, for any run."""

from itertools import pairwise

from yacs.config import CfgNode as CN

from mdistiller.checks import (
    COUNT,
    FRACTION,
    LARGEST,
    SEED,
    TEXT,
    Check,
    above_zero,
    is_number,
    is_whole,
    list_of,
    number,
    one_of,
    require_all,
    whole,
)
from mdistiller.dataset import AUGMENTATIONS
from mdistiller.dataset.operations import MAGNITUDES
from mdistiller.distillers import DISTILLERS, Distiller, check_settings
from mdistiller.errors import UserError

from .cfg import SHARED_SECTIONS, TEXT_KEYS
from .precision import AMP_TYPES
from .solver import OPTIMIZERS, SCHEDULERS, TRAINERS, check_solver

BATCH = whole(1, 65_536)
SYNTHETIC_IMAGES = whole(1, 200_000)
SIDE = Check(
    lambda side: is_whole(side) and (side == 0 or 8 <= side <= 1024), "a whole number from 8 to 1,024 pixels, or 0"
)
ALPHA = Check(lambda alpha: is_number(alpha) and (alpha == 0 or 0.01 <= alpha <= 100), "0.01 to 100, or 0")
STAGES = list_of(COUNT, "[150,180,210]", range(101))

# What the values of the shared sections must be, but for yes or no; a method's class says it of its own.
CHECKS = {
    **{key: TEXT for key in sorted(TEXT_KEYS) if key.split(".")[0] in SHARED_SECTIONS},
    "EXPERIMENT.SEED": SEED,
    **dict.fromkeys(("DATASET.IMAGE_SIZE", "DISTILLER.TEACHER_IMAGE_SIZE"), SIDE),
    **dict.fromkeys(("DATASET.MEAN", "DISTILLER.TEACHER_MEAN"), list_of(number(0, 1), "[0.5,0.5,0.5]", (0, 3))),
    **dict.fromkeys(("DATASET.STD", "DISTILLER.TEACHER_STD"), list_of(number(0.001, 1), "[0.5,0.5,0.5]", (0, 3))),
    "DATASET.NUM_CLASSES": whole(0, 100_000),
    "DATASET.AUGMENT": one_of(*AUGMENTATIONS),
    "DATASET.RANDAUGMENT": whole(0, MAGNITUDES - 1),
    "DATASET.ERASING": number(0, 1),
    "DATASET.MIXUP": ALPHA,
    "DATASET.CUTMIX": ALPHA,
    "DATASET.LABEL_NOISE": number(0, 1),
    "DATASET.VAL_FRACTION": FRACTION,
    "DATASET.NUM_WORKERS": whole(0, 1024),
    "DATASET.TEST.BATCH_SIZE": BATCH,
    "DATASET.SYNTHETIC.TRAIN_IMAGES": SYNTHETIC_IMAGES,
    "DATASET.SYNTHETIC.TEST_IMAGES": SYNTHETIC_IMAGES,
    "DATASET.SYNTHETIC.SEED": SEED,
    "SOLVER.TRAINER": one_of(*TRAINERS),
    "SOLVER.BATCH_SIZE": BATCH,
    "SOLVER.EPOCHS": COUNT,
    "SOLVER.LR": above_zero(100),
    "SOLVER.LR_DECAY_STAGES": Check(
        lambda stages: STAGES.is_good(stages) and all(a < b for a, b in pairwise(stages)),
        f"{STAGES.expected} and later than the one before",
    ),
    "SOLVER.LR_DECAY_RATE": above_zero(1),
    "SOLVER.WEIGHT_DECAY": number(0, 10),
    "SOLVER.MOMENTUM": FRACTION,
    "SOLVER.TYPE": one_of(*OPTIMIZERS),
    "SOLVER.SCHEDULER": one_of(*SCHEDULERS),
    "SOLVER.WARMUP_EPOCHS": whole(0, 10**6),
    "SOLVER.ACCUMULATE": whole(1, 10**4),
    "SOLVER.EMA": FRACTION,
    "SOLVER.LABEL_SMOOTHING": FRACTION,
    "DISTILLER.FREEZE": Check(
        lambda names: len(names) <= 1000 and all(isinstance(name, str) and 0 < len(name) <= 200 for name in names),
        "a list of the student's parts, such as [conv1,layer1.0]",
    ),
    "SOLVER.CLIP_GRAD": number(0, LARGEST),
    "SOLVER.SKIP_NONFINITE": whole(0, 1000),
    "SOLVER.AMP": one_of(*AMP_TYPES),
    "SOLVER.DOT.DELTA": FRACTION,
    "LOG.SAVE_STEPS": whole(0, 10**9),
    "LOG.SAVE_MINUTES": number(0, 10**5),
    "LOG.TENSORBOARD_FREQ": COUNT,
    "LOG.SAVE_CHECKPOINT_FREQ": COUNT,
}


def check(cfg: CN, method: type[Distiller]) -> None:
    """Raise UserError for values that no run can use."""
    require_all(CHECKS, cfg)
    for known in {other.section(): other for other in (*DISTILLERS.values(), method)}.values():
        check_settings(known, cfg)
    check_solver(cfg.SOLVER)
    check_images(cfg.DATASET, method)


def check_images(dataset: CN, method: type[Distiller]) -> None:
    """Raise UserError for training images that `method`, or DATASET.AUGMENT, does not go together with."""
    if dataset.RANDAUGMENT and dataset.AUGMENT != "weak":
        raise UserError(
            f"DATASET.RANDAUGMENT distorts images after weak augmentation, not {dataset.AUGMENT}; type DATASET.AUGMENT "
            "weak, or leave it out"
        )
    if (dataset.MIXUP or dataset.CUTMIX) and method.needs_one_class:
        key = "MIXUP" if dataset.MIXUP else "CUTMIX"
        with_two = [other.__name__ for other in DISTILLERS.values() if not other.needs_one_class]
        raise UserError(
            f"DATASET.{key} gives an image two classes, and a loss of {method.__name__} asks for one; leave it out, or "
            f"choose one of {', '.join(with_two)}"
        )
