"""The contract between methods and everything else: what a method is, and what the engine reads of it."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from mdistiller.checks import Check
from mdistiller.models import Features

from ._common import cross_entropy


class Alone:
    """What a method sees of the other processes where there are none: its part of a batch is the whole."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of the whole batch, of which `tensor` (part of the batch, ...) holds those of this process.

        A gradient runs back to these.
        """
        return tensor

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of this process, out of `tensor` (whole batch, ...)."""
        return tensor


ALONE = Alone()


class Output(NamedTuple):
    """What a network returns. logits: (batch, classes)."""

    logits: torch.Tensor
    features: Features


# Attributes of a class that one which derives from it does not inherit.
OWN = ("defaults", "checks", "ignored", "index", "has_own_folders")


class Distiller(nn.Module):
    """A student, a frozen teacher, and a rule that turns what both return into losses.

    A method is a subclass in a file of its name beside this one. No more is needed: it is then listed, chosen,
    configured, checked and tested by its name. It defines `losses`, or the simpler hook of `LogitDistiller` or
    `FeatureDistiller`; its class attributes say the rest. `forward_train` runs both networks once; only a method whose
    paper does otherwise, such as by two views of an image, overrides it.

    The teacher is frozen, and in eval mode while the distiller trains. A method without a teacher gets None.
    """

    # The method's section of the config, called as the class in capitals: keys and values, sections nested in it.
    defaults: ClassVar[Mapping[str, Any]] = {}
    # What the values must be, by the key within the section, such as "LOSS.KD_WEIGHT".
    checks: ClassVar[Mapping[str, Check]] = {}
    # Where the paper appeared, and what the method transfers: its row in docs/methods.md.
    venue: ClassVar[str] = ""
    transfers: ClassVar[str] = ""
    # Keys of the section that are MDistiller's and do nothing here, by the key within the section, and why.
    ignored: ClassVar[Mapping[str, str]] = {}
    # The method's number on both benchmarks, after the published ones; None: it is chosen by name alone.
    index: ClassVar[int | None] = None

    # Whether DISTILLER.LOGIT_STANDARDIZATION means something: the method compares logits.
    compares_logits: ClassVar[bool] = False
    # Whether the method compares what networks return beside logits, which several teachers have not in common.
    reads_features: ClassVar[bool] = True
    # Whether a loss relates the images of a batch to each other, and so is no mean over them. Of several processes,
    # which have a part of each batch, every one then computes it of the whole (`processes.whole`).
    relates_images: ClassVar[bool] = False
    # Whether a loss beside the cross-entropy asks for the class of an image, so that two of a mixed one are none.
    needs_one_class: ClassVar[bool] = False
    # Whether there is a teacher to learn from.
    needs_teacher: ClassVar[bool] = True
    # Whether the teacher stays as it is loaded, in eval mode: it may be folded, compiled as constants and not saved.
    teacher_is_constant: ClassVar[bool] = True
    # The layout of images and weights that the method's code takes.
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    # Whether its runs go to `{name}_train_log` and `{name}_model_pth` instead of the other methods' folders.
    has_own_folders: ClassVar[bool] = False
    # Whether a config may hold sections that are not known before, for the method to read.
    takes_new_sections: ClassVar[bool] = False

    def __init__(self, student: nn.Module, teacher: nn.Module | None, cfg: Any = None):
        """cfg: the whole config, whose CE_WEIGHT in the method's section, or in LOSS there, weighs the cross-entropy on
        the labels; without one it weighs 1.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.ce_weight = self.weight_of("CE_WEIGHT", cfg)
        solver = cfg.get("SOLVER", {}) if cfg is not None else {}
        self.label_smoothing = solver.get("LABEL_SMOOTHING", 0.0)
        self.processes: Any = ALONE
        if teacher is not None:
            teacher.requires_grad_(False)

    def __init_subclass__(cls, **kwargs: Any):
        """What a method declares is its own: one that derives from another has neither its section nor its place."""
        super().__init_subclass__(**kwargs)
        for name in OWN:
            if name not in vars(cls):
                setattr(cls, name, vars(Distiller)[name])

    @classmethod
    def section(cls) -> str:
        """The name that the method's own section has in a config."""
        return cls.__name__.upper()

    @classmethod
    def sections(cls) -> list[str]:
        """Names of the sections that the method reads: its own, then those of methods that it derives from."""
        bases = [base for base in cls.__mro__ if issubclass(base, Distiller) and base.defaults]
        return list(dict.fromkeys(base.section() for base in bases))

    @classmethod
    def weight_of(cls, key: str, cfg: Any) -> float:
        """The loss weight `key` of the method's section, or of LOSS there; 1 where there is none."""
        section = cfg[cls.sections()[0]] if cfg is not None and cls.sections() else {}
        return section.get("LOSS", section).get(key, 1.0)

    @classmethod
    def mentions(cls, key: str) -> bool:
        """Whether a config may hold a key of this name that is not known before, for a user's file to read."""
        return False

    @classmethod
    def has_task_loss(cls) -> bool:
        """Whether the cross-entropy is `task_loss`; a user's file may have one of its own."""
        return True

    @classmethod
    def number_of_views(cls, cfg: Any) -> int:
        """How many views of each image the method takes, as `cfg` says: 1, or 2 with DATASET.AUGMENT two-view."""
        return 1

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        """What a run of the method, as `cfg` says, differs in from its plain form, as parts of a name."""
        return ["standardised"] if cls.compares_logits and cfg.DISTILLER.LOGIT_STANDARDIZATION else []

    @classmethod
    def student_name(cls, student: str, teacher: str | None) -> str:
        """Name for `build_model` of the network that is saved; student, teacher: of those that a run starts from."""
        return student

    @classmethod
    def checksum(cls) -> str:
        """Of a user's own file, which may change between runs; empty for a method of the package."""
        return ""

    @classmethod
    def build(cls, student: nn.Module, teacher: nn.Module | None, cfg: Any, num_data: int | None = None) -> "Distiller":
        """The method around two networks, as the whole config `cfg` says.

        num_data: number of training images, for a method that remembers each. Raises UserError for bad values of `cfg`.
        """
        return cls(student, teacher, cfg)

    def set_targets(self, targets: torch.Tensor) -> None:
        """Learn the class of every training image, int64 (num_data,), once and before training; most need none."""

    def train(self, mode: bool = True) -> "Distiller":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def losses(self, student: Output, teacher: Any, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The method's own losses by name, scalars with their weights in them; the cross-entropy is added to them.

        student, teacher: what the networks return, an `Output` each, the teacher's without gradient, or None where a
        method has no teacher; target and keywords: as those of `forward_train`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses or forward_train")

    def forward_train(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One training forward.

        image: (batch, 3, height, width); target: (batch,) class indices; keywords: `epoch` (int, from 1),
        `index` (batch,), the images' rows in the training set, with two views `image_weak` and `image_strong`, and of
        mixed images `target_mixed` and `mix`, those of `task_loss`.
        Returns the student's logits (batch, classes) and a dict of scalar losses, whose sum is minimised.
        """
        student, teacher = Output(*self.student(image)), None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = Output(*self.teacher(image))
        losses = self.losses(student, teacher, target, **kwargs)
        return student.logits, {"loss_ce": self.task_loss(student.logits, target, **kwargs), **losses}

    def task_loss(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        target_mixed: torch.Tensor | None = None,
        mix: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """CE_WEIGHT times the cross-entropy of logits (batch, classes) on the labels, smoothed as SOLVER says.

        target: (batch,) class indices; of mixed images `mix`, a scalar, is its weight, and 1 - `mix` that of
        `target_mixed` (batch,). Returns a scalar.
        """
        loss = cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        if target_mixed is not None and mix is not None:
            other = cross_entropy(logits, target_mixed, label_smoothing=self.label_smoothing)
            loss = mix * loss + (1 - mix) * other
        return self.ce_weight * loss

    def forward_test(self, image: torch.Tensor) -> torch.Tensor:
        """The student's logits, (batch, classes)."""
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        """`forward_train` in train mode, else `forward_test`."""
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])

    def extra_parameters(self) -> list[nn.Parameter]:
        """Trained parameters that are neither the student's nor the teacher's."""
        networks = [network for network in (self.student, self.teacher) if network is not None]
        theirs = {id(parameter) for network in networks for parameter in network.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in theirs]

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimiser: the student's, and those of the method's own modules."""
        return [*self.student.parameters(), *self.extra_parameters()]

    def get_extra_parameters(self) -> int:
        """Number of parameters that the method adds to the student's for training."""
        return sum(parameter.numel() for parameter in self.extra_parameters())


def __getattr__(name: str) -> Any:
    """MDistiller's place of `Vanilla`."""
    if name == "Vanilla":
        from .Vanilla import Vanilla

        return Vanilla
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
