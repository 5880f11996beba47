"""The configuration: a yacs node with MDistiller's keys and defaults, extended.

A value comes from, in rising order of precedence: the defaults (those shared by all methods here, a method's own in its
class), a preset of `configs/` or the `--cfg` file, the scripts' flags, trailing KEY VALUE pairs.
"""

import copy
from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.checks import (
    ABOVE_ZERO,
    COUNT,
    FRACTION,
    INDEX,
    NOT_NEGATIVE,
    Check,
    colour,
    is_above_zero,
    is_count,
    is_number,
    list_of,
    one_of,
    require_all,
)
from mdistiller.dataset import AUGMENTATIONS
from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, Distiller, check_settings
from mdistiller.errors import UserError, nearest

from .optim import TRAINERS, check_solver
from .precision import AMP_TYPES
from .values import coerce, load, number

CFG = CN()

CFG.EXPERIMENT = CN()
CFG.EXPERIMENT.PROJECT = "distill"  # of Weights & Biases
CFG.EXPERIMENT.NAME = ""  # NAME and TAG end the run's name, where they say something
CFG.EXPERIMENT.TAG = "default"
CFG.EXPERIMENT.SEED = 2021

CFG.DATASET = CN()
CFG.DATASET.TYPE = "cifar100"  # cifar100 | imagenet | tiny_imagenet | folder | synthetic
# Empty (ROOT, MEAN, STD) and 0: what the type of data says, in `mdistiller.dataset.DATASETS`
CFG.DATASET.ROOT = ""
CFG.DATASET.IMAGE_SIZE = 0  # side in pixels
CFG.DATASET.MEAN = ()
CFG.DATASET.STD = ()
CFG.DATASET.NUM_CLASSES = 0  # of imagenet, where fewer than 1000 are meant; 0: 1000, or clearly fewer
CFG.DATASET.AUGMENT = "weak"  # weak | strong | weak+strong | two-view
CFG.DATASET.FINGERPRINT = ""  # of the training and test images, in a saved config
CFG.DATASET.VAL_FRACTION = 0.0  # of the training images, held out to choose the best student on
CFG.DATASET.NUM_WORKERS = 2  # processes that decode imagenet, at most one a core; other sets live on the device
CFG.DATASET.TEST = CN()
CFG.DATASET.TEST.BATCH_SIZE = 64
CFG.DATASET.SYNTHETIC = CN()
CFG.DATASET.SYNTHETIC.TRAIN_IMAGES = 4000
CFG.DATASET.SYNTHETIC.TEST_IMAGES = 1440
CFG.DATASET.SYNTHETIC.SEED = 0

CFG.DISTILLER = CN()
CFG.DISTILLER.TYPE = PLAIN_TRAINING
CFG.DISTILLER.TEACHER = "ResNet50"
CFG.DISTILLER.STUDENT = "resnet32"
CFG.DISTILLER.TEACHER_WEIGHTS = ""  # empty: the default places
CFG.DISTILLER.TEACHER_SHA256 = ""  # of that file, in a saved config
CFG.DISTILLER.LOGIT_STANDARDIZATION = False  # of the logits that a logit-based method compares

CFG.SOLVER = CN()
CFG.SOLVER.TRAINER = "base"
CFG.SOLVER.BATCH_SIZE = 64
CFG.SOLVER.EPOCHS = 240
CFG.SOLVER.LR = 0.05
CFG.SOLVER.LR_DECAY_STAGES = [150, 180, 210]
CFG.SOLVER.LR_DECAY_RATE = 0.1
CFG.SOLVER.WEIGHT_DECAY = 0.0001
CFG.SOLVER.MOMENTUM = 0.9
CFG.SOLVER.TYPE = "SGD"
CFG.SOLVER.NESTEROV = False  # momentum by Nesterov
CFG.SOLVER.NO_DECAY_NORMS = False  # no weight decay on norms and biases: parameters of at most one dimension
CFG.SOLVER.CLIP_GRAD = 0.0  # largest norm of the gradient of all parameters; 0: any
CFG.SOLVER.SKIP_NONFINITE = 0  # steps in a row that are left out where a gradient is not finite; 0: stop there
CFG.SOLVER.AMP = "none"  # none | bf16 | fp16: precision of the networks in training
CFG.SOLVER.CHANNELS_LAST = True  # layout of images and weights; a method of MDistiller's own needs the other
CFG.SOLVER.COMPILE = False  # the networks, by torch.compile
CFG.SOLVER.DOT = CN()
CFG.SOLVER.DOT.DELTA = 0.075

CFG.LOG = CN()
CFG.LOG.WANDB = False  # log to Weights & Biases as well, where wandb is installed
CFG.LOG.SAVE_STEPS = 0  # write last.pth every so many steps, beside each epoch's end; 0: do not
CFG.LOG.SAVE_MINUTES = 10.0  # and where the last time is so long ago; 0: do not
CFG.LOG.TENSORBOARD_FREQ = 500
CFG.LOG.SAVE_CHECKPOINT_FREQ = 40
CFG.LOG.PREFIX = "./output"

SHARED_SECTIONS = tuple(CFG)


def add_section(cfg: CN, method: type[Distiller]) -> None:
    """Give `cfg` the section of `method`, where that has one. Raises ImportError where its name is taken."""
    if method.defaults:
        if method.section() in SHARED_SECTIONS:
            raise ImportError(f"{method.__name__}'s section {method.section()} is one of all methods; rename the class")
        cfg[method.section()] = CN(copy.deepcopy(dict(method.defaults)))


for _method in DISTILLERS.values():
    add_section(CFG, _method)

# What the values of the shared sections must be; a method's class says it of its own.
CHECKS = {
    "EXPERIMENT.SEED": INDEX,
    "DATASET.IMAGE_SIZE": Check(
        lambda value: value == 0 or (is_count(value) and value >= 8), "a whole number of at least 8 pixels, or 0"
    ),
    "DATASET.MEAN": colour(is_number, 'three numbers such as "[0.5,0.5,0.5]"'),
    "DATASET.STD": colour(is_above_zero, 'three numbers above 0 such as "[0.5,0.5,0.5]"'),
    "DATASET.NUM_CLASSES": INDEX,
    "DATASET.AUGMENT": one_of(*AUGMENTATIONS),
    "DATASET.VAL_FRACTION": FRACTION,
    "DATASET.NUM_WORKERS": INDEX,
    "DATASET.TEST.BATCH_SIZE": COUNT,
    "DATASET.SYNTHETIC.TRAIN_IMAGES": COUNT,
    "DATASET.SYNTHETIC.TEST_IMAGES": COUNT,
    "DATASET.SYNTHETIC.SEED": INDEX,
    "SOLVER.TRAINER": one_of(*TRAINERS),
    "SOLVER.BATCH_SIZE": COUNT,
    "SOLVER.EPOCHS": COUNT,
    "SOLVER.LR": ABOVE_ZERO,
    "SOLVER.LR_DECAY_STAGES": list_of(is_count, 'epochs such as "[150,180,210]"', may_be_empty=True),
    "SOLVER.LR_DECAY_RATE": ABOVE_ZERO,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": FRACTION,
    "SOLVER.TYPE": Check(lambda value: value == "SGD", "SGD"),
    "SOLVER.CLIP_GRAD": NOT_NEGATIVE,
    "SOLVER.SKIP_NONFINITE": INDEX,
    "SOLVER.AMP": one_of(*AMP_TYPES),
    "LOG.SAVE_STEPS": INDEX,
    "LOG.SAVE_MINUTES": NOT_NEGATIVE,
}


def config_for(method: type[Distiller]) -> CN:
    """All defaults, with those of `method`, which may come from a user's file."""
    cfg = CFG.clone()
    add_section(cfg, method)
    return cfg


def check(cfg: CN, method: type[Distiller]) -> None:
    """Raise UserError for values that no run can use."""
    require_all(CHECKS, cfg)
    for known in {other.section(): other for other in (*DISTILLERS.values(), method)}.values():
        check_settings(known, cfg)
    check_solver(cfg.SOLVER)


def used_sections(cfg: CN, method: type[Distiller]) -> CN:
    """The sections that a run of `method` reads, which repeat it: the shared ones and its own.

    A user's file may read any: of the others those are kept that differ from the defaults.
    """
    names = [name for name in cfg if name in (*SHARED_SECTIONS, *method.sections())]
    if method.takes_new_sections:
        names += [name for name in cfg if name not in names and cfg[name] != CFG.get(name)]
    return CN({name: cfg[name] for name in names})


def changed(cfg: CN, key: str, value: Any) -> CN:
    """A frozen copy of `cfg` in which the dotted `key` has another value."""
    cfg = cfg.clone()
    cfg.defrost()
    *sections, last = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[last] = value
    cfg.freeze()
    return cfg


def merge_pairs(cfg: CN, pairs: Sequence[str], allow_new_sections: bool = False) -> None:
    """Merge `["KEY", "VALUE", …]`, keys dotted and values in YAML, into `cfg`; see `merge`."""
    if len(pairs) % 2:
        raise UserError(f"{pairs[-1]!r} has no value; expected KEY VALUE pairs such as SOLVER.EPOCHS 60")
    for key, text in zip(pairs[::2], pairs[1::2], strict=True):
        if key.startswith("-"):
            raise UserError(f"unknown flag {key!r}; type --help for the flags, or KEY VALUE pairs after them")
        value = number(load(text, f'{key} {text!r} (quote lists, as in "[36,43,50]")'))
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(cfg, value, "command line", allow_new_sections)


def merge(cfg: CN, values: dict[str, Any], source: str, allow_new_sections: bool = False, prefix: str = "") -> None:
    """Merge nested `values` into `cfg`, checked against the keys and types there.

    `allow_new_sections`: accept sections that `cfg` lacks, for a user's own distiller. Raises UserError for an
    unknown key, naming the nearest, and for a value of another type.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in cfg:
            if allow_new_sections and (not prefix or prefix.split(".")[0] not in CFG):
                cfg[key] = CN(value) if isinstance(value, dict) else value
                continue
            raise UserError(f"unknown config key {name!r} in {source}{nearest(name, known_keys(CFG))}")
        if isinstance(cfg[key], CN):
            if not isinstance(value, dict):
                raise UserError(f"{name} in {source} is a section; expected {name}.KEY VALUE, not {value!r}")
            merge(cfg[key], value, source, allow_new_sections, f"{name}.")
        else:
            cfg[key] = coerce(name, value, cfg[key], source)


def known_keys(node: CN, prefix: str = "") -> list[str]:
    """Full names, dotted, of a node's values and sections."""
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, CN):
            keys += known_keys(value, f"{prefix}{key}.")
    return keys
