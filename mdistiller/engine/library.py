"""What Python code of one's own calls: a config, a run's files, and the distillation of any module by any loader."""

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data
from mdistiller.distillers import build_distiller, find_method
from mdistiller.errors import UserError, nearest
from mdistiller.models.adapt import adapt

from .cfg import changed
from .failures import explained
from .identity import with_variant
from .index import BENCHMARKS, Benchmark
from .metrics import Result
from .networks import label_of
from .owner import owned
from .provenance import about_run
from .published import Batches
from .resolve import Choices, distillation_config
from .runlog import RunLog
from .runs import RunFiles, create_run, folders_of
from .trainer import Trainer
from .weights import read_weights


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
    return value if isinstance(value, str) else json.dumps(value, default=str)


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
    cfg = make_config(method, settings=settings)
    device = next((parameter.device for parameter in student.parameters()), torch.device("cpu"))
    image = first_image(train_loader)
    networks = {"STUDENT": student, "TEACHER": teacher}
    classes = {role: count_classes(network, image, role.lower()) for role, network in networks.items()}
    if classes["STUDENT"] != classes["TEACHER"]:
        raise UserError(
            f"the student scores {classes['STUDENT']} classes and the teacher {classes['TEACHER']}; expected the same"
        )
    adapted = {}
    for role, network in networks.items():
        name, count = type(network).__name__, classes[role]
        cfg = changed(cfg, f"DISTILLER.{role}", name)
        adapted[role] = adapt(copy.deepcopy(network).cpu(), name, count, image.shape[-1]).to(device)
    train: Any = Batches(train_loader, device)
    test: Any = Batches(test_loader, device)
    data = Data(train, test, list(map(str, range(count))), image.shape[-1], (), ())
    parts = adapted["STUDENT"], adapted["TEACHER"], cfg, train.num_images_per_epoch
    distiller = build_distiller(method, *parts).to(device)
    if (targets := getattr(train_loader.dataset, "targets", None)) is not None:
        distiller.set_targets(torch.as_tensor(targets, device=device))
    with start_run(folder, cfg, data) as run:
        trainer = Trainer(cfg, distiller, data, *run)
        with explained(trainer):
            result = trainer.fit()
        state_dict, _ = read_weights(run.files.best)
    student.load_state_dict(state_dict)
    return result


def first_image(loader: Any) -> torch.Tensor:
    """The first image of a loader, (1, 3, side, side). Raises UserError where its batches are not as `distill` says."""
    try:
        len(loader.dataset), len(loader)
        image, label = next(iter(loader))[:2]
        is_right = image.dim() == 4 and image.is_floating_point() and label.shape == image.shape[:1]
        got = f"{image.dtype} {tuple(image.shape)} and {label.dtype} {tuple(label.shape)}"
    except (AttributeError, TypeError, ValueError, KeyError, StopIteration) as error:
        is_right, got = False, f"{type(error).__name__}: {error}"
    if not is_right:
        raise UserError(
            "the loader gives no batches of float images (batch, 3, side, side) and class indices (batch,), or has no "
            f"length: {' '.join(got.split())[:200]}"
        )
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
    logits = getattr(returned, "logits", returned[0] if isinstance(returned, (tuple, list)) else returned)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"the {role} makes {got} of one image; expected logits (1, classes)")
    return logits.shape[1]
