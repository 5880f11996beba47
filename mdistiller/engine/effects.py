"""Settings without an effect on a run, which are bad input: who types one expects something of it."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.distillers import DISTILLERS, Distiller
from mdistiller.errors import UserError

from .cfg import CFG, SHARED_SECTIONS
from .networks import SEPARATOR
from .solver import TWO_GRADIENTS

# MDistiller's keys that do nothing here, in the shared sections, and what takes their place. Methods' own are in their
# classes. A file may have them all, so that MDistiller's load as they are.
IGNORED = {
    "LOG.TENSORBOARD_FREQ": "scalars are written once an epoch",
    "LOG.SAVE_CHECKPOINT_FREQ": "last.pth is written every epoch",
    "LOG.PREFIX": "the scripts write below their own folder",
}
TWO_VIEWS = "two-view"
OF_TRAINING = "AUGMENT", "RANDAUGMENT", "ERASING", "MIXUP", "CUTMIX", "VAL_FRACTION"  # keys of DATASET


def check_effects(cfg: CN, method: type[Distiller], in_file: Container[str], typed: Iterable[str]) -> None:
    """Raise UserError for a setting that a run of `method` does not read.

    in_file: sections of the --cfg file, of other methods too as long as these hold their defaults;
    typed: the dotted keys of the command line. A user's file may read anything.
    """
    if method.takes_new_sections:
        if cfg.SOLVER.LABEL_SMOOTHING and not method.has_task_loss():
            raise UserError(
                f"SOLVER.LABEL_SMOOTHING has no effect on {method.__name__}, whose file has its own cross-entropy; "
                "leave it out"
            )
        return
    name, typed = method.__name__, list(typed)
    known = IGNORED | {f"{method.section()}.{key}": reason for key, reason in method.ignored.items()}
    for key in typed:
        section = key.split(".")[0]
        if section not in (*SHARED_SECTIONS, *method.sections()):
            raise UserError(f"{key} has no effect on {name}, which reads the section {described(method)}; leave it out")
        if key in known:
            raise UserError(f"{key} has no effect here: {known[key]}; leave it out")
        reason = unread(key, cfg, method)
        if reason:
            raise UserError(f"{key} has no effect {reason}; leave it out")
    for other in DISTILLERS.values():
        section = other.section()
        if section not in in_file or section in method.sections():
            continue
        if read_keys(cfg[section], other) != read_keys(CFG[section], other):
            raise UserError(
                f"the section {section} of the config has no effect on {name}, which reads the section "
                f"{described(method)}; leave it out, or choose {other.__name__}"
            )
    if cfg.DISTILLER.LOGIT_STANDARDIZATION and not method.compares_logits:
        with_logits = [other.__name__ for other in DISTILLERS.values() if other.compares_logits]
        raise UserError(
            f"DISTILLER.LOGIT_STANDARDIZATION has no effect on {name}, which compares no logits; leave it out, or "
            f"choose one of {', '.join(with_logits)}"
        )
    if method.needs_teacher and method.reads_features and SEPARATOR in cfg.DISTILLER.TEACHER:
        without = [other.__name__ for other in DISTILLERS.values() if other.needs_teacher and not other.reads_features]
        raise UserError(
            f"{name} compares features, of which several teachers have none in common; name one teacher, or choose one "
            f"of {', '.join(without)}"
        )
    if cfg.SOLVER.LABEL_SMOOTHING and method.weight_of("CE_WEIGHT", cfg) == 0:
        raise UserError(f"SOLVER.LABEL_SMOOTHING has no effect where the CE_WEIGHT of {name} is 0; leave it out")
    if cfg.DATASET.AUGMENT == TWO_VIEWS and method.number_of_views(cfg) == 1:
        raise UserError(
            f"DATASET.AUGMENT {TWO_VIEWS}: {name} takes one view of an image, as configured; type weak, strong or "
            "weak+strong, or choose a method of two views"
        )


def check_evaluation(typed: Iterable[str], also: Sequence[str] = ()) -> None:
    """Raise UserError for a dotted key of the command line that the evaluation of a network does not read.

    also: keys that it reads beside those of DATASET and the network's arguments.
    """
    for key in typed:
        section, _, name = key.partition(".")
        if (section != "DATASET" or name in OF_TRAINING) and key not in ("DISTILLER.STUDENT_ARGS", *also):
            known = " and ".join(["keys of DATASET", *also])
            raise UserError(f"{key} has no effect on an evaluation, which reads {known}; leave it out")


def read_keys(section: CN, method: type[Distiller], prefix: str = "") -> dict[str, Any]:
    """Values of the dotted keys of `section` that `method` reads."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, CN):
            values |= read_keys(value, method, f"{prefix}{key}.")
        elif prefix + key not in method.ignored:
            values[prefix + key] = value
    return values


def described(method: type[Distiller]) -> str:
    return " and ".join(method.sections()) or "of no method"


def unread(key: str, cfg: CN, method: type[Distiller]) -> str:
    """Why a key of the shared sections is not read in this run; empty where it is."""
    if key.startswith("DISTILLER.TEACHER") and not method.needs_teacher:
        return f"on {method.__name__}, which has no teacher"
    if key == "EXPERIMENT.PROJECT" and not cfg.LOG.WANDB:
        return "without LOG.WANDB True"
    if key in ("SOLVER.MOMENTUM", "SOLVER.NESTEROV") and cfg.SOLVER.TYPE == "AdamW":
        return "with SOLVER.TYPE AdamW"
    if key.startswith("SOLVER.LR_DECAY") and cfg.SOLVER.SCHEDULER == "cosine":
        return "with SOLVER.SCHEDULER cosine"
    if key.startswith("SOLVER.DOT.") and cfg.SOLVER.TRAINER not in TWO_GRADIENTS:
        return f"with SOLVER.TRAINER {cfg.SOLVER.TRAINER}"
    if key.startswith("DATASET.SYNTHETIC.") and cfg.DATASET.TYPE != "synthetic":
        return f"on DATASET.TYPE {cfg.DATASET.TYPE}"
    return ""
