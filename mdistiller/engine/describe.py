"""What a run tells of itself in words: what it is, what in it may be a mistake, and what to type after it."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data, ImageSet
from mdistiller.dataset.streaming import available_cores
from mdistiller.distillers import find_method
from mdistiller.share import ALL, Share

from .board import link_runs
from .cfg import SHARED_SECTIONS, used_sections
from .effects import read_keys
from .lines import LABEL, LINE, command, count, duration, fitted, shortened
from .networks import label_of
from .runs import BASELINE_FOLDERS, PROJECT, RunFiles, shown
from .solver import TWO_GRADIENTS
from .stages import initial_epochs

HEAD_LINES, METHOD_LINES = 15, 2  # at most, and of them at least for the method's settings
HIGHEST_OF_ADAMW = 0.01  # learning rate in published recipes
LONGEST_NAME, LONGEST_ROOT = 24, 40
# Learning rate and batch of the presets' recipe, by DATASET.TYPE, and how many times off is far. Published recipes go
# from a twentieth of it, for light networks, to four times.
RECIPES, RECIPE, FAR = {"imagenet": (0.2, 512)}, (0.1, 64), (1 / 24, 8)


def describe_run(
    cfg: CN,
    meta: Mapping[str, Any],
    data: Data,
    networks: Mapping[str, nn.Module | None],
    files: RunFiles,
    processes: int = 1,
) -> list[str]:
    """The head of a run's log: at most HEAD_LINES lines of at most LINE columns that tell what runs.

    meta: what its weight files tell; networks: by their role, "teacher" or "student"; processes: how many train it.
    """
    solver, seed = cfg.SOLVER, cfg.EXPERIMENT.SEED
    joined = f"{solver.ACCUMULATE} x " if solver.ACCUMULATE > 1 else ""
    initial = initial_epochs(cfg, find_method(cfg.DISTILLER.TYPE))
    first = f"{initial} + " if initial else ""
    epochs = f"{first}{count(solver.EPOCHS, 'epoch')}, batch {joined}{solver.BATCH_SIZE}"
    before = {"Data": describe_images(cfg, data), "Networks": describe_networks(cfg, networks)}
    after = {
        "Optimiser": describe_optimiser(solver),
        "Training": f"{epochs}, {describe_augmentation(cfg)}, seed {seed}",
        "Device": describe_device(cfg, data, processes),
        "Versions": describe_code(meta.get("versions", {})),
    }
    folders = describe_files(files)
    for of_recipe, of_rest in ((3, 3), (3, 2), (3, 1), (2, 1), (1, 1)):
        most = dict.fromkeys(("Optimiser", "Training"), of_recipe)
        above, below = (
            [line for label, text in part.items() for line in fitted(label, text, most.get(label, of_rest))]
            for part in (before, after)
        )
        room = HEAD_LINES - len(above) - len(below) - len(folders)
        if room >= METHOD_LINES:
            break
    return above + describe_method(cfg, meta, room) + below + folders


def describe_images(cfg: CN, data: Data) -> str:
    """Which images a run reads, and how many."""
    dataset, side = cfg.DATASET, data.image_size
    root = f"in {shortened(shown(Path(dataset.ROOT)), LONGEST_ROOT)}"
    where = f"of seed {dataset.SYNTHETIC.SEED}" if dataset.TYPE == "synthetic" else root
    splits = {"training": data.train, "validation": data.val, "test": data.test}
    counts = [f"{len(split.image_set):,} {name}" for name, split in splits.items() if split is not None]
    if data.val is not None:
        counts[1] += f" ({data.val_from})"
    return f"{dataset.TYPE} {where}, {data.num_classes} classes; {', '.join(counts)} images of {side}x{side} pixels"


def describe_networks(cfg: CN, networks: Mapping[str, nn.Module | None]) -> str:
    """The networks and their millions of parameters."""
    parts = []
    for role, network in networks.items():
        if network is not None:
            millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
            parts.append(f"{role} {shortened(label_of(cfg, role.upper()), LONGEST_NAME)} {millions:.2f} M")
    weights, frozen = cfg.DISTILLER.STUDENT_WEIGHTS, ", ".join(cfg.DISTILLER.FREEZE)
    begun = f"; the student begins with {shortened(shown(Path(weights)), LONGEST_ROOT)}" if weights else ""
    return f"{', '.join(parts)} parameters{begun}{f'; frozen: {frozen}' if frozen else ''}"


def describe_method(cfg: CN, meta: Mapping[str, Any], lines: int) -> list[str]:
    """The method and the settings that it reads, in at most `lines` lines; those that are left out are counted."""
    method = find_method(cfg.DISTILLER.TYPE)
    sections = {name: node for name, node in used_sections(cfg, method).items() if name not in SHARED_SECTIONS}
    settings = ["logits standardised"] if cfg.DISTILLER.LOGIT_STANDARDIZATION else []
    for name, section in sections.items():
        values = read_keys(section, method.unread(cfg)) if isinstance(section, CN) else {"": section}
        prefix = "" if name == method.section() else f"{name}."
        settings += [f"{prefix}{key}".rstrip(".") + f" {shortened(plain(value), 60)}" for key, value in values.items()]
    name = shortened(meta.get("distiller", method.__name__), LONGEST_NAME * 2)
    for left_out in range(len(settings) + 1):
        told = settings[: len(settings) - left_out]
        if left_out:
            told = [*told, f"and {count(left_out, 'more setting')} in the config"]
        text = f"{name}: {', '.join(told)}" if told else name
        found = fitted("Method", text)
        if len(found) <= lines:
            break
    return found[:lines]


def plain(value: Any) -> str:
    """A setting's value as short as a command line takes it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_optimiser(solver: CN) -> str:
    """The optimiser and the schedule of its learning rate."""
    name = f"DOT of delta {solver.DOT.DELTA:g}" if solver.TRAINER in TWO_GRADIENTS else solver.TYPE
    if solver.TYPE == "SGD":
        name += f" of momentum {solver.MOMENTUM:g}{' (Nesterov)' if solver.NESTEROV else ''}"
    decay = f"weight decay {solver.WEIGHT_DECAY:g}{' but for norms and biases' if solver.NO_DECAY_NORMS else ''}"
    clipping = f"gradients clipped at {solver.CLIP_GRAD:g}, " if solver.CLIP_GRAD else ""
    averaging = f"weights averaged by {solver.EMA:g}, " if solver.EMA else ""
    rise = f" after {count(solver.WARMUP_EPOCHS, 'epoch')} of warm-up" if solver.WARMUP_EPOCHS else ""
    stages = ", ".join(map(str, solver.LR_DECAY_STAGES))  # last, as many may be cut off
    fall = f", times {solver.LR_DECAY_RATE:g} after epoch {stages}" if stages else ""
    fall = ", a cosine to 0" if solver.SCHEDULER == "cosine" else fall
    return f"{name}, {decay}, {clipping}{averaging}learning rate {solver.LR:g}{rise}{fall}"


def describe_augmentation(cfg: CN) -> str:
    """What becomes of the training images and their labels."""
    dataset, smoothing = cfg.DATASET, cfg.SOLVER.LABEL_SMOOTHING
    told = {"augmentation": dataset.AUGMENT, "RandAugment": dataset.RANDAUGMENT, "erasing": dataset.ERASING}
    told |= {
        "mixup": dataset.MIXUP,
        "CutMix": dataset.CUTMIX,
        "label smoothing": smoothing,
        "label noise": dataset.LABEL_NOISE,
    }
    return ", ".join(f"{name} {plain(value)}" for name, value in told.items() if value)


def describe_device(cfg: CN, data: Data, processes: int) -> str:
    """What a run computes on, how precisely, and in how many processes."""
    device, solver = data.train.device, cfg.SOLVER
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU {platform.machine()} with {count(torch.get_num_threads(), 'thread')}"
    precision = ("float32" if solver.AMP == "none" else solver.AMP) + (", compiled" if solver.COMPILE else "")
    is_held = isinstance(data.train.image_set, ImageSet)
    workers = 0 if is_held else min(cfg.DATASET.NUM_WORKERS, available_cores())
    running = "1 process" if processes == 1 else f"{processes} processes"
    return f"{name}, {precision}; {running}" + (f" and {workers} that decode images" if workers else "")


def describe_code(versions: Mapping[str, str]) -> str:
    """The code that ran. versions: of packages, and `commit` where there is one."""
    told = {name: versions.get(name, "") for name in ("mdistiller", "commit", "torch", "python")}
    told["torch"] = told["torch"].partition("+")[0]  # which GPU it was built for the device tells
    return ", ".join(f"{name} {version}" for name, version in told.items() if version)


def describe_files(files: RunFiles) -> list[str]:
    """The run's name and the folders that it writes to, in which {run} stands for the name."""
    folders = {"Weights": files.weights, "Log": files.folder}
    lines = [f"{'Run:':<{LABEL}}{shortened(files.name, LINE - LABEL)}"]
    for label, folder in folders.items():
        path = f"{shown(folder.parent)}/{folder.name.replace(files.name, '{run}')}"
        lines.append(f"{label + ':':<{LABEL}}{shortened(path, LINE - LABEL)}")
    return lines


def hints(cfg: CN) -> list[str]:
    """What in `cfg` runs but may be a mistake, a sentence each."""
    solver, found = cfg.SOLVER, []
    late = [stage for stage in solver.LR_DECAY_STAGES if stage >= solver.EPOCHS]
    if late and solver.SCHEDULER == "step":
        early = [stage for stage in solver.LR_DECAY_STAGES if stage < solver.EPOCHS]
        falls = f"falls after {', '.join(map(str, early))} alone" if early else "never falls"
        found.append(
            f"Hint: SOLVER.LR_DECAY_STAGES {', '.join(map(str, late))} are not before the last epoch, "
            f"{solver.EPOCHS}: the learning rate {falls}"
        )
    lr, batch = RECIPES.get(cfg.DATASET.TYPE, RECIPE)
    in_proportion = lr * solver.BATCH_SIZE * solver.ACCUMULATE / batch
    ratio = solver.LR / in_proportion
    if solver.TYPE == "AdamW" and solver.LR > HIGHEST_OF_ADAMW:
        found.append(f"Hint: SOLVER.LR {solver.LR:g} is one of SGD; with AdamW published recipes have 0.0005 to 0.005")
    if solver.TYPE == "SGD" and not FAR[0] <= ratio <= FAR[1]:
        times = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
        found.append(
            f"Hint: SOLVER.LR {solver.LR:g} is {times} what the presets' recipe, {lr:g} for batches of {batch}, means "
            f"for SOLVER.BATCH_SIZE {solver.BATCH_SIZE}; in proportion it is SOLVER.LR {in_proportion:.3g}"
        )
    return found


def hint_of_devices(device: torch.device, processes: int, files: RunFiles) -> list[str]:
    """That there are GPUs which a run does not use, where that is so."""
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if processes > 1 or gpus < 2:
        return []
    start = " ".join([*starter(Share(0, gpus, gpus)), script_of(files)])
    return [f"Hint: {gpus} GPUs are visible and this run uses one; {start} and the same flags use all"]


def describe_best(split: str, top1: float, epoch: int, path: Path) -> str:
    """The best of a run by its images of `split`, in one line."""
    best = f"Best {split.capitalize()} Top-1 Accuracy: {top1:.2f}, epoch {epoch}, "
    return best + shortened(shown(path), LINE - len(best))


def describe_epoch(epoch: str, images: int, seconds: float, left: float) -> str:
    """How fast `epoch`, in words, went, and how many seconds are `left` of the run."""
    rest = f"; {duration(left)} left" if left > 0 else ""
    return f"{epoch.capitalize()} took {seconds:.1f} s, {images / seconds:,.0f} images a second{rest}"


def script_of(files: RunFiles) -> str:
    """The script that a run is of, as a user would type it."""
    name = "train.py" if files.log.parent.name == BASELINE_FOLDERS[0] else "distillation_train.py"
    return shown(files.log.parents[1] / name)


def starter(share: Share) -> list[str]:
    """What to type before a script, as words, to start it in as many processes."""
    if share.size == 1:
        return ["python"]
    machines = -(-share.size // share.on_machine)
    return ["torchrun", *([f"--nnodes={machines}"] if machines > 1 else []), f"--nproc_per_node={share.on_machine}"]


def commands(files: RunFiles, share: Share = ALL) -> list[str]:
    """What to type after a run, as lines: to repeat it, to evaluate its best student, to see all of the benchmark."""
    utils = files.log.parents[1]
    test = shown(PROJECT / "test.py") if (PROJECT / "test.py").is_file() else "test.py"
    return [
        *command("Repeat:", *starter(share), script_of(files), "--cfg", shown(files.config)),
        *command("Evaluate:", "python", test, "--checkpoint", shown(files.best)),
        *command("TensorBoard:", "tensorboard", "--logdir", shown(link_runs(utils))),
    ]


def print_commands(files: RunFiles, share: Share = ALL) -> None:
    """Print the commands below what a run logged."""
    print("", *commands(files, share), sep="\n")
