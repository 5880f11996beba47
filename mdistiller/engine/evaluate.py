"""Evaluation of finished weight files: what each reaches, or several together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data, build_data
from mdistiller.errors import UserError

from .agreement import KEYS, Teacher, teacher_of
from .ensemble import Ensemble
from .measures import Agreement, Calibration, Confusion
from .metrics import Result, evaluate
from .networks import SEPARATOR, label
from .sight import Seeing, Sight
from .students import Reader, WeightFile
from .values import dump
from .views import DESCRIPTIONS, ONE_VIEW, TEN_CROP, viewed

WHICH_IMAGES = {"DATASET.ROOT", "DATASET.SYNTHETIC.SEED", "DATASET.SYNTHETIC.TEST_IMAGES"}


@dataclass(frozen=True)
class Evaluation:
    """What a weight file, or several as an ensemble, reach on the data of type `dataset`; None stands for what is not
    told. What the files of an ensemble tell differently is joined by commas.

    is_changed: whether the images are others than those that a run was tested on; classes: the names of those that
    the network scores; confusion: int64, images of each (row) taken for each (column). calibration: the expected error,
    in percent. agreement, divergence: with the teacher, in percent and in nats; compared_with: its weights;
    teacher_is_changed: whether these have, since the run. image_size, views, precision: how it was tested.
    """

    files: tuple[Path, ...]
    dataset: str
    teacher: str | None
    student: str | None
    method: str | None
    seed: int | str | None
    epoch: int | str | None
    chosen_by: str | None
    is_changed: bool
    result: Result
    classes: list[str]
    confusion: torch.Tensor | None
    calibration: float
    agreement: float | None
    divergence: float | None
    compared_with: str | None
    teacher_is_changed: bool
    image_size: int
    views: str
    precision: str


class Member(NamedTuple):
    """A network that is evaluated, its file and its part of the table. columns: as of `evaluate`."""

    file: WeightFile
    cfg: CN
    label: str
    models: str
    network: nn.Module
    classes: list[str]
    columns: torch.Tensor | None


class Evaluator(Reader):
    """Evaluates weight files on the test images that their `meta` names, overridden by `pairs`; reads these once.

    views: of each image, as of `Viewing`; teacher: to compare with, as of `teacher_of`, or None.
    """

    def __init__(
        self,
        network: str | None,
        pairs: list[str],
        device: torch.device,
        project: Path | None = None,
        views: str = ONE_VIEW,
        teacher: str | None = None,
    ):
        also = ["SOLVER.AMP", *(f"DISTILLER.{key}" for key in KEYS if teacher)]
        super().__init__(network, pairs, project, also)
        self.device, self.views, self.teacher = device, views, teacher
        self.data_sets: dict[str, Data] = {}  # by their config

    def data_of(self, cfg: CN) -> Data:
        """The test images that `cfg` names."""
        key = dump(cfg.DATASET)
        if key not in self.data_sets:
            self.data_sets[key] = build_data(
                cfg, self.device, cfg.EXPERIMENT.SEED, splits=("test",), crops=self.views == TEN_CROP
            )
        return self.data_sets[key]

    def of_same_data(self, files: Sequence[WeightFile]) -> list[WeightFile]:
        """Those of `files` that were tested on the images that `pairs` name, where they name any."""
        if not WHICH_IMAGES.intersection(self.pairs[::2]):
            return list(files)
        return [file for file in files if not self._is_of_other_data(file)]

    def _is_of_other_data(self, file):
        try:
            return self.is_changed(file, self.config_of(file))
        except UserError:  # its evaluation says why
            return False

    def is_changed(self, file: WeightFile, cfg: CN) -> bool:
        """Whether the test images of `cfg` are, as `file` tells, others of the same type than those of its run."""
        theirs = file.meta.get("dataset", {}).get("fingerprints")
        if cfg.DATASET.TYPE != file.dataset or not isinstance(theirs, dict):
            return False
        ours = self.data_of(cfg).fingerprints["test"]
        return theirs.get("test", ours) != ours

    def evaluate(self, files: Sequence[WeightFile], title: str, per_class: bool = False) -> Evaluation:
        """What the network of a file reaches, or of several as an ensemble: the mean of their probabilities.

        title: of the progress bar; per_class: count what is taken for what. Raises UserError for files that cannot be
        one ensemble.
        """
        members = [self.member(file) for file in files]
        first, data = members[0], self.data_of(members[0].cfg)
        for other in members[1:]:
            self.check_alike(first, other)
        networks = [viewed(seeing(member, first), self.views, first.cfg, data) for member in members]
        network = networks[0] if len(networks) == 1 else Ensemble(networks)
        teacher = self.teacher_of(members, data)
        calibration = Calibration(self.device)
        confusion = Confusion(len(first.classes), self.device) if per_class else None
        viewed_teacher = None if teacher is None else viewed(teacher.network, self.views, first.cfg, data)
        agreement = None if viewed_teacher is None else Agreement(viewed_teacher, first.columns)
        observers = [observer for observer in (calibration, confusion, agreement) if observer is not None]
        result = evaluate(network, data.test, first.columns, observers, title)
        if not math.isfinite(result.loss) and first.cfg.SOLVER.AMP == "fp16":
            raise UserError(f"the logits of {files[0].path} are beyond what fp16 holds; type SOLVER.AMP bf16, or none")
        metas = [file.meta for file in files]
        seeds = [m.cfg.EXPERIMENT.SEED for m in members if "SEED" in self._said(m.file).get("EXPERIMENT", {})]
        return Evaluation(
            files=tuple(file.path for file in files),
            dataset=first.cfg.DATASET.TYPE,
            teacher=joined(meta.get("teacher") for meta in metas),
            student=joined(member.label for member in members),
            method=joined(meta.get("distiller") for meta in metas),
            seed=joined(seeds),
            epoch=joined(meta.get("epoch") for meta in metas),
            chosen_by=joined(meta.get("chosen_by") for meta in metas),
            is_changed=any(self.is_changed(member.file, member.cfg) for member in members),
            result=result,
            classes=first.classes,
            confusion=None if confusion is None else confusion.counts.cpu(),
            calibration=calibration.error,
            agreement=None if agreement is None else agreement.top1,
            divergence=None if agreement is None else agreement.divergence,
            compared_with=teacher and teacher.weights,
            teacher_is_changed=teacher is not None and teacher.is_changed,
            image_size=data.image_size,
            views=self.views,
            precision=first.cfg.SOLVER.AMP.replace("none", "float32"),
        )

    def member(self, file: WeightFile) -> Member:
        """The network of `file`, to be evaluated. One of more classes than the data has is tested as it is: any class
        may win, wrong ones included.
        """
        cfg = self.config_of(file)
        named = self.named(file, cfg)
        network, classes, rows = self.network_of(file, cfg, named, self.data_of(cfg).classes)
        columns = None if rows is None else torch.tensor(rows, device=self.device)
        return Member(file, cfg, label(named.name, named.arguments), named.models, network, classes, columns)

    def check_alike(self, first: Member, other: Member) -> None:
        """Raise UserError where two networks see other images or score other classes, and so cannot be one ensemble."""
        paths = f"{first.file.path} and {other.file.path}"
        for key in ("TYPE", "IMAGE_SIZE"):
            theirs, ours = first.cfg.DATASET[key], other.cfg.DATASET[key]
            if theirs != ours:
                raise UserError(
                    f"an ensemble sees the same images, and DATASET.{key} of {paths} is {theirs} and {ours}; choose "
                    f"files by --dataset or --checkpoint, or type DATASET.{key} for all"
                )
        if self.data_of(first.cfg).fingerprints != self.data_of(other.cfg).fingerprints:
            raise UserError(
                f"an ensemble sees the same images, and those of {paths} differ; choose files by --checkpoint, or type "
                "DATASET.ROOT for all"
            )
        if first.classes != other.classes:
            counts = f"{len(first.classes)} and {len(other.classes)}"
            raise UserError(f"an ensemble's networks score the same classes, and {paths} score others ({counts})")

    def teacher_of(self, members: Sequence[Member], data: Data) -> Teacher | None:
        """The one teacher that all `members` are compared with. Raises UserError where they have several."""
        if self.teacher is None:
            return None
        first, *others = [
            teacher_of(member.file, self.teacher, member.cfg, self.pairs, member.models, data, self.project)
            for member in members
        ]
        if any(other is None or first is None or other.weights != first.weights for other in others):
            raise UserError("the files of the ensemble had other teachers than each other; type --agreement FILE")
        return first

    def title(self, networks: int) -> str:
        """How all rows were tested, where that is not as each run was; networks: of a row."""
        typed = dict(zip(self.pairs[::2], self.pairs[1::2], strict=True))
        told = [f"at {typed['DATASET.IMAGE_SIZE']} pixels"] if "DATASET.IMAGE_SIZE" in typed else []
        told += [f"by {DESCRIPTIONS[self.views]}"] if self.views in DESCRIPTIONS else []
        told += [f"in {typed['SOLVER.AMP']}"] if typed.get("SOLVER.AMP", "none") != "none" else []
        told += [f"by mean probabilities of {networks} networks"] if networks > 1 else []
        return f"Tested {', '.join(told)}" if told else ""


def joined(values: Iterable[Any]) -> Any:
    """The value that all agree on, else those there are, as text; None where there is none."""
    known = list(dict.fromkeys(value for value in values if value is not None))
    return SEPARATOR.join(map(str, known)) if len(known) > 1 else next(iter(known), None)


def seeing(member: Member, first: Member) -> nn.Module:
    """The network of `member`, of images normalised as for `first`."""
    given, own = (
        Sight(each.cfg.DATASET.IMAGE_SIZE, tuple(each.cfg.DATASET.MEAN), tuple(each.cfg.DATASET.STD))
        for each in (first, member)
    )
    return member.network if own == given else Seeing(member.network, own, given)
