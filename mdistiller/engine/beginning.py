"""What a student begins with: the weights of a file, or those that its library has for it."""

from pathlib import Path

from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data
from mdistiller.models.others import SIDE_KEYS

from .cfg import changed
from .distributed import Processes
from .index import Benchmark
from .networks import PRETRAINED, arguments_of
from .sight import Sight
from .teachers import fetch_pretrained, pretrained_path, sha256_of
from .values import as_text
from .weights import load_weights


def begin(
    cfg: CN, student: nn.Module, benchmark: Benchmark, data: Data, processes: Processes, goes_on: bool
) -> tuple[CN, list[str]]:
    """Load what DISTILLER.STUDENT_WEIGHTS says into `student`; returns `cfg` with the file and its checksum, and notes.

    goes_on: a saved state will replace the weights; the file that they once came from need not be there.
    Raises UserError for weights that are missing, or are another network's.
    """
    name, path = cfg.DISTILLER.STUDENT, cfg.DISTILLER.STUDENT_WEIGHTS
    notes: list[str] = []
    arguments = arguments_for_library(cfg, student)
    if path == PRETRAINED:
        path = str(pretrained_path(name, arguments, benchmark.models))
    if not path or (goes_on and not Path(path).exists()):
        return cfg, notes
    with processes.in_turn():
        fetch_pretrained(path, name, arguments)
    meta = load_weights(student, path, name, keeps_classifier=True)
    if meta.get("kept"):
        notes.append("The student's classifier is new: its weights are of other classes")
    given = Sight(data.image_size, tuple(data.mean), tuple(data.std))
    if (own := given.over(meta)) != given:
        notes.append(f"The student's weights are for images of {own}, and this run has {given}")
    sha256 = sha256_of(path)
    if cfg.DISTILLER.STUDENT_SHA256 not in ("", sha256):
        notes.append("Warning: the student's weights have changed since the run of this config")
    cfg = changed(cfg, "DISTILLER.STUDENT_WEIGHTS", path)
    return changed(cfg, "DISTILLER.STUDENT_SHA256", sha256), notes


def arguments_for_library(cfg: CN, student: nn.Module) -> str:
    """Arguments by which its library makes the pretrained weights of `student`: with the size of images, where these
    are of one size, to which timm then fits positions and patches.
    """
    name, text = cfg.DISTILLER.STUDENT, cfg.DISTILLER.STUDENT_ARGS
    of_timm = getattr(student, "pretrained_cfg", None) or {}
    if not (of_timm.get("fixed_input_size") or hasattr(student, "image_size")):
        return text
    key = SIDE_KEYS[name.partition(":")[0]]
    return as_text({key: cfg.DATASET.IMAGE_SIZE} | arguments_of(text, "DISTILLER.STUDENT_ARGS", name))
