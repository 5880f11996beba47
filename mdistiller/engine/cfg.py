"""The configuration: a yacs node with MDistiller's keys and defaults, extended.

A value comes from, in rising order of precedence: the defaults (those shared by all methods here, a method's own in its
class), a preset of `configs/` or the `--cfg` file, the scripts' flags, trailing KEY VALUE pairs.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.checks import brief
from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, Distiller
from mdistiller.errors import UserError, nearest

from .values import as_number, coerce, dump, leaves, load

CFG = CN()

CFG.EXPERIMENT = CN()
CFG.EXPERIMENT.PROJECT = "distill"  # of Weights & Biases
CFG.EXPERIMENT.NAME = ""  # NAME and TAG end the run's name, where they say something
CFG.EXPERIMENT.TAG = "default"
CFG.EXPERIMENT.SEED = 2021
CFG.EXPERIMENT.VERSIONS = ""  # of the code, in a saved config

CFG.DATASET = CN()
CFG.DATASET.TYPE = "cifar100"  # cifar100 | imagenet | tiny_imagenet | folder | synthetic
# Empty (ROOT, MEAN, STD) and 0: what the type of data says, in `mdistiller.dataset.DATASETS`
CFG.DATASET.ROOT = ""
CFG.DATASET.IMAGE_SIZE = 0  # side in pixels
CFG.DATASET.MEAN = ()
CFG.DATASET.STD = ()
CFG.DATASET.NUM_CLASSES = 0  # of imagenet, where fewer than 1000 are meant; 0: 1000, or clearly fewer
CFG.DATASET.AUGMENT = "weak"  # weak | strong | weak+strong | two-view
CFG.DATASET.RANDAUGMENT = 0  # magnitude, to 30, of two operations after weak augmentation; 0: none
CFG.DATASET.ERASING = 0.0  # share of the training images that lose a rectangle
CFG.DATASET.MIXUP = CFG.DATASET.CUTMIX = 0.0  # α of the weight of a training image in a mixture of two; 0: no mixture
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
# Networks: ours, torchvision:NAME, timm:NAME or path/net.py:make_net; several teachers by commas, and so their weights
CFG.DISTILLER.TEACHER = "ResNet50"
CFG.DISTILLER.STUDENT = "resnet32"
CFG.DISTILLER.TEACHER_ARGS = "{}"  # of a network of others: a YAML mapping, such as "{img_size: 32}"
CFG.DISTILLER.STUDENT_ARGS = "{}"
CFG.DISTILLER.TEACHER_WEIGHTS = ""  # empty: the default places; pretrained: those of the network's library
CFG.DISTILLER.STUDENT_WEIGHTS = ""  # to begin with, in place of random ones
CFG.DISTILLER.FREEZE = []  # beginnings of names of the student's weights that stay as they are
# Of the images that the teacher was trained on; empty and 0: as its weights say, else as DATASET
CFG.DISTILLER.TEACHER_MEAN = ()
CFG.DISTILLER.TEACHER_STD = ()
CFG.DISTILLER.TEACHER_IMAGE_SIZE = 0
# Checksums, in a saved config: of users' own files of the method and the networks, and of the networks' weights
CFG.DISTILLER.TYPE_SHA256 = ""
CFG.DISTILLER.STUDENT_FILE_SHA256 = ""
CFG.DISTILLER.TEACHER_FILE_SHA256 = ""
CFG.DISTILLER.TEACHER_SHA256 = ""
CFG.DISTILLER.STUDENT_SHA256 = ""
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
CFG.SOLVER.TYPE = "SGD"  # SGD | AdamW
CFG.SOLVER.SCHEDULER = "step"  # step | cosine, to 0 at the end
CFG.SOLVER.WARMUP_EPOCHS = 0  # in which the learning rate rises linearly
CFG.SOLVER.ACCUMULATE = 1  # batches of an optimiser's step
CFG.SOLVER.EMA = 0.0  # decay of the weights' moving average, which is evaluated and saved; 0: none
CFG.SOLVER.LABEL_SMOOTHING = 0.0  # of the cross-entropy on the labels
CFG.SOLVER.NESTEROV = False  # momentum by Nesterov
CFG.SOLVER.NO_DECAY_NORMS = False  # no weight decay on norms and biases: parameters of at most one dimension
CFG.SOLVER.CLIP_GRAD = 0.0  # largest norm of the gradient of all parameters; 0: any
CFG.SOLVER.SKIP_NONFINITE = 0  # steps in a row that are left out where a gradient is not finite; 0: stop there
CFG.SOLVER.SYNC_BN = CFG.SOLVER.FREEZE_BN = False  # batch norms see all processes' batch; keep their statistics
CFG.SOLVER.AMP = "none"  # none | bf16 | fp16: precision of the networks in training
CFG.SOLVER.CHANNELS_LAST = True  # layout of images and weights; a method of MDistiller's own needs the other
CFG.SOLVER.COMPILE = False  # the networks, by torch.compile
CFG.SOLVER.DETERMINISTIC = False  # a GPU's sums in one order, so that a run repeats itself bit for bit
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

TEXT_KEYS = frozenset(key for key, value in leaves(CFG).items() if isinstance(value, str))


def config_for(method: type[Distiller]) -> CN:
    """All defaults, with those of `method`, which may come from a user's file. Raises UserError where they are none."""
    cfg = CFG.clone()
    try:
        add_section(cfg, method)
    except (ImportError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{method.__name__}'s defaults are no section of a config: {error}") from error
    return cfg


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


def merge_pairs(
    cfg: CN, pairs: Sequence[str], allow_new_sections: bool = False, mentions: Callable[[str], bool] | None = None
) -> None:
    """Merge `["KEY", "VALUE", …]`, keys dotted, into `cfg`; see `merge`. Values are in YAML, those of text as typed.

    Of a new section, too, `mentions` must know the names, as a slip of the finger is likelier here than in a file.
    """
    if len(pairs) % 2:
        raise UserError(f"{brief(pairs[-1])!r} has no value; expected KEY VALUE pairs such as SOLVER.EPOCHS 60")
    for key, text in zip(pairs[::2], pairs[1::2], strict=True):
        if key.startswith("-"):
            raise UserError(f"unknown flag {brief(key)!r}; type --help for the flags, or KEY VALUE pairs after them")
        if "=" in key:
            raise UserError(f"{brief(key)!r} is no key; expected KEY VALUE pairs such as SOLVER.EPOCHS 60, without =")
        value: Any = text
        if not isinstance(leaves(cfg).get(key), str):
            value = as_number(load(text, f'{key} {brief(text)!r} (quote lists, as in "[36,43,50]")'))
        for part in reversed(key.split(".")):
            value = {part: value}
        is_meant = allow_new_sections and (mentions is None or all(map(mentions, key.split("."))))
        merge(cfg, value, "command line", is_meant, mentions)


def merge(
    cfg: CN,
    values: dict[str, Any],
    source: str,
    allow_new_sections: bool = False,
    mentions: Callable[[str], bool] | None = None,
    prefix: str = "",
) -> None:
    """Merge nested `values` into `cfg`, checked against the keys and types there.

    `allow_new_sections`: accept sections that `cfg` lacks, for a user's own distiller; `mentions`: in the known
    ones, accept new keys of these names. Raises UserError for an unknown key, naming the nearest, and for a value of
    another type.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in cfg:
            is_of_new_section = not prefix or prefix.split(".")[0] not in CFG
            if allow_new_sections if is_of_new_section else (mentions is not None and mentions(key)):
                cfg[key] = CN(value) if isinstance(value, dict) else value
                continue
            raise UserError(f"unknown config key {brief(name)!r} in {source}{nearest(name, [*CFG, *leaves(CFG)])}")
        if isinstance(cfg[key], CN):
            if not isinstance(value, dict):
                raise UserError(f"{name} in {source} is a section; expected {name}.KEY VALUE, not {brief(repr(value))}")
            merge(cfg[key], value, source, allow_new_sections, mentions, f"{name}.")
        else:
            cfg[key] = coerce(name, value, cfg[key], source)


def show_cfg(cfg: CN) -> None:
    """Print the whole config, as scripts written for MDistiller do."""
    print(dump(cfg), end="")
