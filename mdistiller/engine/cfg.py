"""The configuration: a yacs node with MDistiller's keys and defaults, extended.

A value comes from, in rising order of precedence: the defaults here, a preset of `configs/` or the `--cfg` file,
the scripts' flags, trailing KEY VALUE pairs.
"""

import ast
import functools
import math
from pathlib import Path

import yaml
from yacs.config import CfgNode as CN

from mdistiller.errors import UserError, nearest

from .acceleration import AMP_TYPES
from .optimizers import TRAINERS

CFG = CN()

CFG.EXPERIMENT = CN()
CFG.EXPERIMENT.PROJECT = "distill"
CFG.EXPERIMENT.NAME = ""
CFG.EXPERIMENT.TAG = "default"
CFG.EXPERIMENT.SEED = 2021

CFG.DATASET = CN()
CFG.DATASET.TYPE = "cifar100"  # cifar100 | imagenet | tiny_imagenet | folder | synthetic
# Empty (ROOT, MEAN, STD) and 0: what the type of data says, in `mdistiller.dataset.DATASETS`
CFG.DATASET.ROOT = ""
CFG.DATASET.IMAGE_SIZE = 0  # side in pixels, of imagenet, tiny_imagenet and folder
CFG.DATASET.MEAN = ()
CFG.DATASET.STD = ()
CFG.DATASET.NUM_CLASSES = 0  # of imagenet, where fewer than 1000 are meant; 0: 1000, or clearly fewer
CFG.DATASET.AUGMENT = "weak"  # weak | strong | weak+strong | two-view
CFG.DATASET.NUM_WORKERS = 2  # processes that decode imagenet, at most one a core; other sets live on the device
CFG.DATASET.TEST = CN()
CFG.DATASET.TEST.BATCH_SIZE = 64
CFG.DATASET.SYNTHETIC = CN()
CFG.DATASET.SYNTHETIC.TRAIN_IMAGES = 4000
CFG.DATASET.SYNTHETIC.TEST_IMAGES = 1440
CFG.DATASET.SYNTHETIC.SEED = 0

CFG.DISTILLER = CN()
CFG.DISTILLER.TYPE = "NONE"
CFG.DISTILLER.TEACHER = "ResNet50"
CFG.DISTILLER.STUDENT = "resnet32"
CFG.DISTILLER.TEACHER_WEIGHTS = ""  # empty: the default places
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
CFG.SOLVER.AMP = "none"  # none | bf16 | fp16: precision of the networks in training
CFG.SOLVER.CHANNELS_LAST = True  # layout of images and weights; a method of MDistiller's own needs the other
CFG.SOLVER.COMPILE = False  # the networks, by torch.compile
CFG.SOLVER.DOT = CN()
CFG.SOLVER.DOT.DELTA = 0.075

CFG.LOG = CN()
CFG.LOG.TENSORBOARD_FREQ = 500  # MDistiller's; scalars are written once an epoch here
CFG.LOG.SAVE_CHECKPOINT_FREQ = 40  # MDistiller's; last.pth is written every epoch here
CFG.LOG.PREFIX = "./output"  # MDistiller's; the scripts write beside themselves here
CFG.LOG.WANDB = True  # MDistiller's; TensorBoard and metrics.csv take its place here

CFG.KD = CN()
CFG.KD.TEMPERATURE = 4
CFG.KD.LOSS = CN()
CFG.KD.LOSS.CE_WEIGHT = 0.1
CFG.KD.LOSS.KD_WEIGHT = 0.9

CFG.AT = CN()
CFG.AT.P = 2
CFG.AT.LOSS = CN()
CFG.AT.LOSS.CE_WEIGHT = 1.0
CFG.AT.LOSS.FEAT_WEIGHT = 1000.0

CFG.RKD = CN()
CFG.RKD.DISTANCE_WEIGHT = 25
CFG.RKD.ANGLE_WEIGHT = 50
CFG.RKD.LOSS = CN()
CFG.RKD.LOSS.CE_WEIGHT = 1.0
CFG.RKD.LOSS.FEAT_WEIGHT = 1.0
CFG.RKD.PDIST = CN()
CFG.RKD.PDIST.EPSILON = 1.0e-12
CFG.RKD.PDIST.SQUARED = False

CFG.FITNET = CN()
CFG.FITNET.HINT_LAYER = 2
CFG.FITNET.INPUT_SIZE = (32, 32)  # MDistiller's; the scripts set that of the data
CFG.FITNET.LOSS = CN()
CFG.FITNET.LOSS.CE_WEIGHT = 1.0
CFG.FITNET.LOSS.FEAT_WEIGHT = 100.0

CFG.KDSVD = CN()
CFG.KDSVD.K = 1
CFG.KDSVD.LOSS = CN()
CFG.KDSVD.LOSS.CE_WEIGHT = 1.0
CFG.KDSVD.LOSS.FEAT_WEIGHT = 1.0

CFG.OFD = CN()
CFG.OFD.LOSS = CN()
CFG.OFD.LOSS.CE_WEIGHT = 1.0
CFG.OFD.LOSS.FEAT_WEIGHT = 0.001
CFG.OFD.CONNECTOR = CN()
CFG.OFD.CONNECTOR.KERNEL_SIZE = 1

CFG.NST = CN()
CFG.NST.LOSS = CN()
CFG.NST.LOSS.CE_WEIGHT = 1.0
CFG.NST.LOSS.FEAT_WEIGHT = 50.0

CFG.PKT = CN()
CFG.PKT.LOSS = CN()
CFG.PKT.LOSS.CE_WEIGHT = 1.0
CFG.PKT.LOSS.FEAT_WEIGHT = 30000.0

CFG.SP = CN()
CFG.SP.LOSS = CN()
CFG.SP.LOSS.CE_WEIGHT = 1.0
CFG.SP.LOSS.FEAT_WEIGHT = 3000.0

CFG.VID = CN()
CFG.VID.LOSS = CN()
CFG.VID.LOSS.CE_WEIGHT = 1.0
CFG.VID.LOSS.FEAT_WEIGHT = 1.0
CFG.VID.EPS = 1e-5
CFG.VID.INIT_PRED_VAR = 5.0
CFG.VID.INPUT_SIZE = (32, 32)  # MDistiller's; channels are read off the networks here

CFG.CRD = CN()
CFG.CRD.MODE = "exact"
CFG.CRD.FEAT = CN()
CFG.CRD.FEAT.DIM = 128
CFG.CRD.FEAT.STUDENT_DIM = 256  # MDistiller's; read off the networks here
CFG.CRD.FEAT.TEACHER_DIM = 256  # MDistiller's; read off the networks here
CFG.CRD.LOSS = CN()
CFG.CRD.LOSS.CE_WEIGHT = 1.0
CFG.CRD.LOSS.FEAT_WEIGHT = 0.8
CFG.CRD.NCE = CN()
CFG.CRD.NCE.K = 16384
CFG.CRD.NCE.MOMENTUM = 0.5
CFG.CRD.NCE.TEMPERATURE = 0.07

CFG.REVIEWKD = CN()
CFG.REVIEWKD.CE_WEIGHT = 1.0
CFG.REVIEWKD.REVIEWKD_WEIGHT = 1.0
CFG.REVIEWKD.WARMUP_EPOCHS = 20
# MDistiller's table of the pair; sizes and channels are read off the two networks here
CFG.REVIEWKD.SHAPES = [1, 8, 16, 32]
CFG.REVIEWKD.OUT_SHAPES = [1, 8, 16, 32]
CFG.REVIEWKD.IN_CHANNELS = [64, 128, 256, 256]
CFG.REVIEWKD.OUT_CHANNELS = [64, 128, 256, 256]
CFG.REVIEWKD.MAX_MID_CHANNEL = 512
CFG.REVIEWKD.STU_PREACT = False  # compare the student's maps before their ReLU

CFG.DKD = CN()
CFG.DKD.CE_WEIGHT = 1.0
CFG.DKD.ALPHA = 1.0
CFG.DKD.BETA = 8.0
CFG.DKD.T = 4.0
CFG.DKD.WARMUP = 20
CFG.DKD.CLAMP = 0.0  # logits are clamped to ± this first; 0: not at all

CFG.DIST = CN()
CFG.DIST.CE_WEIGHT = 1.0
CFG.DIST.BETA = 2.0
CFG.DIST.GAMMA = 2.0
CFG.DIST.T = 4.0

CFG.NKD = CN()
CFG.NKD.CE_WEIGHT = 1.0
CFG.NKD.GAMMA = 1.5
CFG.NKD.T = 1.0

CFG.CTKD = CN()
CFG.CTKD.T_START = 1.0
CFG.CTKD.T_RANGE = 20.0
CFG.CTKD.CURRICULUM_EPOCHS = 10
CFG.CTKD.LOSS = CN()
CFG.CTKD.LOSS.CE_WEIGHT = 0.1
CFG.CTKD.LOSS.KD_WEIGHT = 0.9

CFG.SDD = CN()
CFG.SDD.SCALES = [1, 2, 4]  # cells a side of each grid of regions, the whole map first
CFG.SDD.CE_WEIGHT = 2.0
CFG.SDD.ALPHA = 3.0
CFG.SDD.BETA = 6.0
CFG.SDD.T = 4.0
CFG.SDD.WARMUP = 20

CFG.CLKD = CN()
CFG.CLKD.BETA = 2.0
CFG.CLKD.LOSS = CN()
CFG.CLKD.LOSS.CE_WEIGHT = 0.1
CFG.CLKD.LOSS.KD_WEIGHT = 0.5
CFG.CLKD.LOSS.CORRELATION_WEIGHT = 0.4

CFG.MLKD = CN()
CFG.MLKD.VIEWS = 1  # 2: a weak and a strong view of each image, with DATASET.AUGMENT two-view
CFG.MLKD.TEMPERATURES = [4.0, 3.0, 2.0]
CFG.MLKD.LOSS = CN()
CFG.MLKD.LOSS.CE_WEIGHT = 0.5
CFG.MLKD.LOSS.KD_WEIGHT = 0.5

CFG.SKD = CN()
CFG.SKD.FORM = "released"  # released | paper
CFG.SKD.TEMPERATURE = 4.0
CFG.SKD.TIKHONOV = 0.1
CFG.SKD.LOSS = CN()
CFG.SKD.LOSS.CE_WEIGHT = 0.1
CFG.SKD.LOSS.INSTANCE_WEIGHT = 0.9
CFG.SKD.LOSS.DIRECTION_WEIGHT = 0.9


def known_keys(node: CN, prefix: str = "") -> list[str]:
    """Full names, dotted, of a node's values and sections."""
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, CN):
            keys += known_keys(value, f"{prefix}{key}.")
    return keys


def read_yaml(path) -> dict:
    """The nested values of the YAML file `path`. Raises UserError where it is unreadable or no mapping."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror or error}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not text; expected a YAML file") from error
    return parse_yaml(text, f"config {path}")


def parse_yaml(text: str, source: str) -> dict:
    """The nested values of a YAML text. Raises UserError, naming `source`, where it is no mapping."""
    values = _load(text, source) or {}
    if not isinstance(values, dict):
        raise UserError(f"{source} holds a {type(values).__name__}; expected SECTION: {{KEY: value}}")
    return values


def merge_pairs(cfg: CN, pairs: list[str], allow_new_sections: bool = False) -> None:
    """Merge `["KEY", "VALUE", …]`, keys dotted and values in YAML, into `cfg`; see `merge`."""
    if len(pairs) % 2:
        raise UserError(f"{pairs[-1]!r} has no value; expected KEY VALUE pairs such as SOLVER.EPOCHS 60")
    for key, text in zip(pairs[::2], pairs[1::2], strict=True):
        if key.startswith("-"):
            raise UserError(f"unknown flag {key!r}; type --help for the flags, or KEY VALUE pairs after them")
        value = _number(_load(text, f'{key} {text!r} (quote lists, as in "[36,43,50]")'))
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(cfg, value, "command line", allow_new_sections)


class _Dumper(yaml.SafeDumper):
    """Writes a value that two keys share twice, not as a reference."""

    def ignore_aliases(self, data):
        return True


def dump(cfg: CN) -> str:
    """The whole config as YAML, which `read_yaml` and MDistiller read."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return yaml.dump(plain(cfg), Dumper=_Dumper)


def _load(text: str, source: str):
    """The value of a YAML text. Raises UserError for what is no YAML or holds more than a config can."""
    try:
        value = yaml.safe_load(text)
        _check_plain(value, source)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    return value


def _check_plain(value, source: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{source} has the key {key!r}; expected text")
            _check_plain(item, source)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, source)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise UserError(f"{source} holds a {type(value).__name__}, {value}; quote it to mean text")


def merge(cfg: CN, values: dict, source: str, allow_new_sections: bool = False, prefix: str = "") -> None:
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
            cfg[key] = _coerce(name, value, cfg[key], source)


def _number(value):
    """YAML reads 1e-4 (no dot) as text; a researcher means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sequence(value):
    """YAML reads (32, 32) as text."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _coerce(name, value, old, source):
    """`value` in the type of `old`, numbers and sequences being interchangeable among themselves."""
    value = _number(value) if isinstance(old, (int, float)) else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(old, bool):
        fits = isinstance(value, bool)
    elif isinstance(old, float):
        fits, value = is_number, float(value) if is_number else value
    elif isinstance(old, int):
        fits = is_number
    elif isinstance(old, (list, tuple)):
        value = _sequence(value)
        fits = isinstance(value, (list, tuple))
        value = type(old)(map(_number, value)) if fits else value
    else:
        value = "" if value is None else value
        fits, value = not isinstance(value, (list, tuple, dict)), str(value)
    if not fits:
        raise UserError(f"{name} in {source} is {value!r}; expected {type(old).__name__}, such as {old!r}")
    return value


def _is_count(value) -> bool:
    return isinstance(value, int) and value >= 1


def _is_above_zero(value) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _are(check_one, count=None):
    """A check of a sequence: every item, and their number where `count` is given."""
    return lambda values: len(values) == (count or len(values)) > 0 and all(map(check_one, values))


def _are_colour(check_one):
    """A check of a number for each colour channel, or none."""
    return lambda values: (
        len(values) == 0
        or (_are(lambda value: isinstance(value, (int, float)), 3)(values) and all(map(check_one, values)))
    )


# What no run can do without: (keys, check, what was expected).
CHECKS = (
    (
        "SOLVER.EPOCHS SOLVER.BATCH_SIZE DATASET.TEST.BATCH_SIZE DATASET.SYNTHETIC.TRAIN_IMAGES "
        "DATASET.SYNTHETIC.TEST_IMAGES CRD.NCE.K CRD.FEAT.DIM KDSVD.K REVIEWKD.MAX_MID_CHANNEL CTKD.CURRICULUM_EPOCHS",
        _is_count,
        "a positive whole number",
    ),
    (
        "SOLVER.LR SOLVER.LR_DECAY_RATE KD.TEMPERATURE DKD.T SKD.TEMPERATURE SKD.TIKHONOV SDD.T DIST.T NKD.T "
        "CTKD.T_START CRD.NCE.TEMPERATURE VID.EPS",
        _is_above_zero,
        "a number above 0",
    ),
    (
        "SOLVER.WEIGHT_DECAY CTKD.T_RANGE DKD.CLAMP",
        lambda value: value == 0 or _is_above_zero(value),
        "a number that is not negative",
    ),
    ("SOLVER.MOMENTUM CRD.NCE.MOMENTUM", lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    ("VID.INIT_PRED_VAR", lambda value: 1e-3 < value < math.inf, "a number above 0.001"),
    (
        "DATASET.IMAGE_SIZE",
        lambda value: value == 0 or (_is_count(value) and value >= 8),
        "a whole number of at least 8 pixels, or 0",
    ),
    (
        "EXPERIMENT.SEED DATASET.SYNTHETIC.SEED DATASET.NUM_CLASSES DATASET.NUM_WORKERS FITNET.HINT_LAYER",
        lambda value: isinstance(value, int) and 0 <= value < 2**63,
        "a whole number that is not negative",
    ),
    (
        "SOLVER.LR_DECAY_STAGES",
        lambda values: all(map(_is_count, values)),
        'epochs such as "[150,180,210]"',
    ),
    ("MLKD.TEMPERATURES", _are(_is_above_zero), 'numbers above 0 such as "[4,3,2]"'),
    ("MLKD.VIEWS", lambda value: value in (1, 2), "1 or 2"),
    ("SDD.SCALES", _are(_is_count), 'whole numbers such as "[1,2,4]"'),
    ("FITNET.INPUT_SIZE VID.INPUT_SIZE", _are(_is_count, 2), 'height and width such as "[32,32]"'),
    ("OFD.CONNECTOR.KERNEL_SIZE", lambda value: _is_count(value) and value % 2, "an odd whole number"),
    ("DATASET.MEAN", _are_colour(math.isfinite), 'three numbers such as "[0.5,0.5,0.5]"'),
    ("DATASET.STD", _are_colour(_is_above_zero), 'three numbers above 0 such as "[0.5,0.5,0.5]"'),
    ("SOLVER.TYPE", lambda value: value == "SGD", "SGD"),
    ("SOLVER.AMP", lambda value: value in AMP_TYPES, f"one of {', '.join(AMP_TYPES)}"),
    ("SOLVER.TRAINER", lambda value: value in TRAINERS, f"one of {', '.join(TRAINERS)}"),
)


def check(cfg: CN) -> None:
    """Raise UserError for values that no run can use."""
    for keys, is_good, expected in CHECKS:
        for key in keys.split():
            value = functools.reduce(CN.__getitem__, key.split("."), cfg)
            if not is_good(value):
                raise UserError(f"{key} is {value}; expected {expected}")
    if cfg.SOLVER.AMP == "fp16" and cfg.SOLVER.TRAINER in ("dot", "crd_dot"):
        raise UserError("SOLVER.AMP fp16 scales one loss and SOLVER.TRAINER dot has two; type SOLVER.AMP bf16")
