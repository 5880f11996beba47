"""What Python code of one's own calls: a config, a run's files, and the distillation of any module by any loader."""

import contextlib
import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data
from mdistiller.distillers import Distiller, find_method
from mdistiller.errors import UserError, nearest
from mdistiller.models.adapt import adapt

from .cfg import changed
from .failures import explained
from .identity import with_variant
from .index import BENCHMARKS, Benchmark
from .metrics import Result
from .metrics import evaluate as measure
from .networks import label_of
from .owner import owned
from .provenance import about_run
from .published import Batches
from .resolve import Choices, distillation_config
from .run import assemble
from .runlog import RunLog
from .runs import RunFiles, create_run, folders_of
from .trainer import Trainer
from .weights import read_weights

# Beginnings of keys for what `distill` is given by its arguments, or leaves to its caller.
GIVEN = "DATASET.", "DISTILLER.", "SOLVER.BATCH_SIZE", "SOLVER.SYNC_BN", "LOG.WANDB"


class Run(NamedTuple):
    """What `Trainer` takes after config, distiller and data: where a run is written to, and what it tells of itself."""

    files: RunFiles
    log: RunLog
    meta: dict[str, Any]


def make_config(
    method: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
    settings: Mapping[str, Any] | None = None,
    cfg: str | Path | None = None,
    benchmark: str = "cifar100",
    device: torch.device | str = "cpu",
) -> CN:
    """The frozen config of a run, as the scripts of `benchmark`, "cifar100" or "imagenet", make it.

    method, student, teacher: names or indices, as the scripts' flags take them, the first where they are None;
    settings: values by dotted key, such as {"SOLVER.EPOCHS": 60}, over the method's preset, or over the YAML file
    `cfg`. Raises UserError for what no run can use.
    """
    pairs = [word for key, value in (settings or {}).items() for word in (key, as_text(value))]
    choices = Choices(student, teacher, method, cfg=cfg, pairs=pairs)
    return distillation_config(find_benchmark(benchmark), choices, torch.device(device))


def as_text(value: Any) -> str:
    """A setting as a command line has it."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    return json.dumps(value, default=lambda number: number.item() if hasattr(number, "item") else str(number))


def find_benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; valid: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


@contextlib.contextmanager
def start_run(
    folder: str | Path, cfg: CN, data: Data, benchmark: str = "cifar100", teacher_top1: float | None = None
) -> Iterator[Run]:
    """A new run below `folder`, laid out as below a script's `Utils`; its log ends with the context.

    cfg, data: what it trains by and on; teacher_top1: in percent, for its tables. Raises UserError where nothing can be
    written there.
    """
    own, method = find_benchmark(benchmark), find_method(cfg.DISTILLER.TYPE)
    teacher = label_of(cfg, "TEACHER") if method.needs_teacher else "none"
    published = [label_of(cfg, "STUDENT"), with_variant(method.__name__, cfg, method)]
    logs, weights = (Path(folder).absolute() / name for name in folders_of(method))
    files = create_run(logs, weights, own.label, [teacher, *published], published)
    meta = about_run(cfg, files.name, data, own.models_for(cfg.DATASET.TYPE), teacher_top1)
    with owned(files.weights), RunLog(files, meta["config"], judged_on="validation" if data.val else "test") as log:
        yield Run(files, log, meta)


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train_loader: Any,
    test_loader: Any,
    method: str,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    folder: str | Path = "distilled",
) -> Result:
    """Distil `teacher` into `student`, which gets the weights of its best epoch; returns what these reach on the test.

    student, teacher: any modules that turn float images (batch, 3, side, side) into logits (batch, classes), which they
    stay; both train where the student is. Loaders: of a known length, of batches (image, label), or (image, label,
    index), the images' rows, for a method that remembers images. method: a name, or path/to/file.py:ClassName; epochs:
    SOLVER.EPOCHS; settings: as of `make_config`. The run's log, curves and weights lie below `folder`. Raises UserError
    for what does not fit.
    """
    settings = {**(settings or {}), **({} if epochs is None else {"SOLVER.EPOCHS": epochs})}
    for key in settings:
        if key.startswith(GIVEN) and key != "DISTILLER.LOGIT_STANDARDIZATION":
            raise UserError(f"{key} has no effect on distill, which is given networks and loaders; leave it out")
    cfg = make_config(method, settings=settings)
    check_takes_networks(find_method(cfg.DISTILLER.TYPE), cfg)
    parameter = next(student.parameters(), torch.zeros(()))
    image = first_image(train_loader, "training", parameter.dtype)
    first_image(test_loader, "test", parameter.dtype)
    count = count_classes(student, image, "student")
    if (theirs := count_classes(teacher, image, "teacher")) != count:
        raise UserError(f"the student scores {count} classes and the teacher {theirs}; expected the same")
    cfg, own_student = adapted(student, "STUDENT", cfg, count, image)
    cfg, own_teacher = adapted(teacher, "TEACHER", cfg, count, image)
    train: Any = Batches(train_loader, parameter.device)
    test: Any = Batches(test_loader, parameter.device)
    data = Data(train, test, list(map(str, range(count))), image.shape[-1], (), ())
    distiller = assemble(cfg, own_student.to(parameter.device), own_teacher.to(parameter.device), train)
    with start_run(folder, cfg, data) as run:
        trainer = Trainer(cfg, distiller, data, *run)
        with explained(trainer):
            result = trainer.fit()
        state_dict, _ = read_weights(run.files.best)
    student.load_state_dict(state_dict)
    return result


def check_takes_networks(method: type[Distiller], cfg: CN) -> None:
    """Raise UserError for a method that `distill` cannot run."""
    reasons = {
        "has no teacher": not method.needs_teacher,
        "takes two views of an image": method.number_of_views(cfg) > 1,
        "makes another network of the student": method.student_name("student", "teacher") != "student",
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(
                f"distill takes no {method.__name__}, which {reason}; choose another method, or use Trainer"
            )


def adapted(network: nn.Module, role: str, cfg: CN, count: int, image: torch.Tensor) -> tuple[CN, nn.Module]:
    """`cfg` with the name of `network` as DISTILLER.`role`, and a copy of it that is one of ours.

    count: of its logits; image: (1, 3, side, side), one that it takes.
    """
    name = type(network).__name__
    return changed(cfg, f"DISTILLER.{role}", name), adapt(copy.deepcopy(network), name, count, image.shape[-1])


def first_image(loader: Any, role: str, dtype: torch.dtype) -> torch.Tensor:
    """The first image of a loader, (1, 3, side, side). Raises UserError where its batches are not as `distill` says."""
    try:
        len(loader.dataset), len(loader)
        image, label = next(iter(loader))[:2]
        is_right = image.dim() == 4 and image.dtype == dtype and label.shape == image.shape[:1]
        is_right = is_right and label.dtype == torch.int64
        got = f"{image.dtype} {tuple(image.shape)} and {label.dtype} {tuple(label.shape)}"
    except StopIteration:
        raise UserError(
            f"the {role} loader is empty; give it images, or fewer a batch where it leaves out the last (drop_last)"
        ) from None
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        is_right, got = False, f"{type(error).__name__}: {error}"
    if not is_right:
        expected = f"batches of {dtype} images (batch, 3, side, side) and int64 classes (batch,)"
        raise UserError(f"the {role} loader gives no {expected}, or has no length: {' '.join(got.split())[:200]}")
    return image[:1]


def count_classes(network: nn.Module, image: torch.Tensor, role: str) -> int:
    """How many logits `network` makes of `image`, (1, 3, side, side)."""
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters(), image)
    try:
        with torch.no_grad():
            returned = network.eval()(image.to(parameter))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the {role} takes no images {tuple(image.shape)} ({type(error).__name__}: {reason})"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    logits = logits_in(returned)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"the {role} makes {got} of one image; expected logits (1, classes)")
    return logits.shape[1]


def logits_in(returned: Any) -> Any:
    """The logits in what a network returned: by themselves, before its features, or by their name."""
    return getattr(returned, "logits", returned[0] if isinstance(returned, (tuple, list)) else returned)


class Logits(nn.Module):
    """`network` as one of ours, without features."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return logits_in(self.network(image)), {}


def evaluate(network: nn.Module, batches: Iterable[Any]) -> Result:
    """Loss, top-1 and top-5 of any network, in eval mode, where it is; its mode is restored.

    network: images (batch, 3, height, width) to logits (batch, classes), or to a tuple that begins with them. batches:
    dicts of "image" and "target", as of `Data`, or tuples (image, label, …).
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    def as_dicts() -> Iterator[dict[str, torch.Tensor]]:
        for batch in batches:
            image, target = (batch["image"], batch["target"]) if isinstance(batch, dict) else batch[:2]
            yield {"image": image.to(device), "target": target.to(device)}

    was_training = network.training
    try:
        return measure(Logits(network), as_dicts())
    finally:
        network.train(was_training)
