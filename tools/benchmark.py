"""Measure how fast this project is beside the plain way of published code, in one run; prints a table.

Parts: step, whole training steps with their data; epoch, one epoch, on CUDA with a profile of what the GPU waits for;
loader, augmented batches; teacher, its forward; losses, those that grow with the batch; crd, its negatives; files,
reading of photographs. Times are medians of repeats in which the ways take turns.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import gc
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from mdistiller.dataset import DATASETS, Data, ImageSet, Loader
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import FileLoader, available_cores
from mdistiller.distillers import build_distiller
from mdistiller.distillers.CRD import Sampler, memory_scores
from mdistiller.distillers.NST import nst_loss, nst_loss_reference
from mdistiller.distillers.RKD import angle_loss, angle_loss_reference, distance_loss
from mdistiller.distillers.SKD import direction_loss, direction_loss_reference
from mdistiller.engine.acceleration import (
    AMP_TYPES,
    autocast,
    begin_step,
    compile_network,
    fastest_settings,
    set_backends,
)
from mdistiller.engine.benchmarks import CIFAR100
from mdistiller.engine.cli import distillation_config, run_script
from mdistiller.engine.experiment import assemble, memory_format_of, select_device
from mdistiller.engine.tables import align
from mdistiller.engine.trainer import Meter, Trainer
from mdistiller.models import build_model
from mdistiller.models.folding import fold_batch_norms
from tests.dataset.pil_oracle import PlainDistortion

CPU = torch.device("cpu")
SIDE, CLASSES = 32, 100
STATISTICS = DATASETS["cifar100"].mean, DATASETS["cifar100"].std
WARM_UP_STEPS = 4  # compiling, autotuning and recording CUDA graphs take up to three
EQUAL_STEPS, EQUAL_TO = 20, 1e-4  # over which, and how nearly, losses must equal those of the plain way
EQUAL_LR = 0.01  # at the presets' 0.1 training from random weights makes 1e-3 of a single rounding within 20 steps
ROUNDING = 2**-24  # of float32, relative
PROFILED_STEPS = 20  # after as many others
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}  # beyond any cache
SECONDS_A_MEASUREMENT = 0.5  # for what is called many times

SKD_BATCHES, SKD_TIKHONOV = (64, 1024), 0.1
RKD_BATCHES, RKD_WIDTH, RKD_WEIGHTS = (64, 512), 128, (25, 50)
NST_BATCH, NST_MAPS = 64, ((32, 32, 32), (64, 16, 16), (128, 8, 8))
CRD_IMAGES, CRD_BATCH, CRD_NEGATIVES, CRD_WIDTH, CRD_TEMPERATURE = 50_000, 64, 16_384, 128, 0.07


@dataclasses.dataclass
class Row:
    """seconds: of one step; images: of one step, where it has any; memory: MiB at its peak, where that is known."""

    what: str
    way: str
    seconds: float
    images: float | None = None
    memory: float | None = None


@dataclasses.dataclass
class Report:
    """notes: lines to print below the table; is_wrong: whether something that must hold did not."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    is_wrong: bool = False


class PlainImages(Dataset):
    """Small images as PIL images in a list, augmented and normalised one at a time by torchvision's transforms v1."""

    def __init__(self, image_set, augment):
        self.pictures = [Image.fromarray(image) for image in image_set.images.permute(0, 2, 3, 1).numpy()]
        self.targets = image_set.targets.tolist()
        steps = [transforms.ToTensor(), transforms.Normalize(*STATISTICS)]
        if augment == "strong":
            steps.insert(0, PlainDistortion())
        if augment != "none":
            steps = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), *steps]
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, row):
        return self.transform(self.pictures[row]), self.targets[row], row


def plain_loader(image_set, batch_size, augment, workers, shuffle=True):
    """Batches (image, target, index); "weak+strong" has every image in both views, as a `Loader` has."""
    views = [PlainImages(image_set, view) for view in augment.split("+")]
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(ConcatDataset(views), batch_size, shuffle, **options)


class Way:
    """A way to train on `image_set`: `loader` makes an epoch of it, which `train_on` runs."""

    def prepare(self):
        """Warm up and start the loader's workers; returns the MiB that the GPU gave for the first steps."""
        few = first_images(self.image_set, WARM_UP_STEPS * self.cfg.SOLVER.BATCH_SIZE)
        _, memory = with_peak_memory(lambda: self.train_on(self.loader(few)), self.device)
        self.epoch = self.loader(self.image_set)
        next(iter(self.epoch))
        return memory

    def train_epoch(self):
        self.train_on(self.epoch)

    def profile(self):
        return profile_steps(self)


class PlainTraining(Way):
    """Training as published trainers do it: float32, NCHW, the teacher as it is, values read back in every step.

    The networks and losses are this project's; part `losses` compares the losses.
    """

    def __init__(self, cfg, student, teacher, image_set, device, workers=0):
        self.cfg, self.image_set, self.device, self.workers = cfg, image_set, device, workers
        torch.manual_seed(0)  # for the modules that a method adds
        self.distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, len(image_set)).to(device)
        if hasattr(self.distiller, "set_targets"):
            self.distiller.set_targets(image_set.targets.to(device))
        self.optimizer = torch.optim.SGD(
            self.distiller.get_learnable_parameters(),
            lr=cfg.SOLVER.LR,
            momentum=cfg.SOLVER.MOMENTUM,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )

    def loader(self, image_set):
        return plain_loader(image_set, self.cfg.SOLVER.BATCH_SIZE, self.cfg.DATASET.AUGMENT, self.workers)

    def train_on(self, loader):
        set_plain_backends()
        self.distiller.train()
        for image, target, index in loader:
            self.step(image.to(self.device), target.to(self.device), index.to(self.device))

    def step(self, image, target, index):
        """One step; returns the loss and the two accuracies, as numbers."""
        logits, losses = self.distiller(image=image, target=target, index=index, epoch=1)
        loss = sum(losses.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        hits = logits.topk(5, dim=1).indices == target[:, None]
        top1, top5 = hits[:, :1].sum() / len(target), hits.sum() / len(target)
        return loss.item(), top1.item(), top5.item()


def set_plain_backends():
    """What published scripts set, and PyTorch's defaults: on CUDA convolutions are autotuned and may use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


class OwnProcess:
    """What `make(*arguments)` returns, in a process of its own: its methods are called there.

    What our trainer sets for its process, how memory is kept above all, does not reach the plain way so.
    """

    def __init__(self, make, *arguments):
        settings = torch.get_num_threads(), multiprocessing.get_start_method()
        spawn = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, spawn, initializer=_set_up_process, initargs=settings)
        self.executor.submit(_make_here, make, arguments).result()

    def __getattr__(self, name):
        return lambda *arguments: self.executor.submit(_call_here, name, arguments).result()

    def close(self):
        self.executor.shutdown()


def _set_up_process(threads, start_method):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the benchmark, and with it this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(start_method, force=True)  # of the loader's workers


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_here(make, arguments):
    OwnProcess.here = make(*arguments)


def _call_here(name, arguments):
    return getattr(OwnProcess.here, name)(*arguments)


def plain_training(cfg, images, device, workers):
    """`PlainTraining` of what the seeds make: nothing large is sent to another process."""
    return PlainTraining(cfg, *build_networks(cfg), random_images(images), device, workers)


class PlainFiles(Dataset):
    """The plain way to read photographs: one at a time, by PIL and torchvision's transforms v1."""

    def __init__(self, files, image_size, mean, std):
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        with Image.open(self.files.path(row)) as file:
            return self.transform(file.convert("RGB")), self.files.targets[row].item()


def plain_negatives(index, targets, others, k):
    """CRD's samples as its published loader draws them, image by image; others: the rows of each class's negatives."""
    samples = []
    for row in index:
        negatives = others[targets[row]]
        samples.append(np.hstack([[row], np.random.choice(negatives, k, replace=k > len(negatives))]))
    return np.stack(samples)


def plain_scores(embedding, memory, indices, temperature):
    """CRD's scores as published: the samples' entries of the memory are gathered, then multiplied."""
    samples = memory.index_select(0, indices.flatten()).view(*indices.shape, -1)
    return torch.bmm(samples, embedding[:, :, None]).squeeze(2).div(temperature).exp()


class Training(Way):
    """The project's own trainer, without a run's files."""

    def __init__(self, cfg, student, teacher, image_set, device):
        image_set = image_set.to(device)
        self.cfg, self.image_set, self.device = cfg, image_set, device
        torch.manual_seed(0)
        loader = self.loader(image_set)
        data = Data(loader, None, image_set.classes, SIDE, *STATISTICS)
        self.trainer = Trainer(cfg, assemble(cfg, student, teacher, loader), data, None, None, {})

    def loader(self, image_set):
        return Loader(
            *(image_set, self.cfg.SOLVER.BATCH_SIZE, *STATISTICS, self.cfg.DATASET.AUGMENT),
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
            memory_format=memory_format_of(self.cfg),
        )

    def train_on(self, loader):
        set_backends(self.cfg.SOLVER)
        self.trainer.data = dataclasses.replace(self.trainer.data, train=loader)
        self.trainer.train_epoch(1)

    def step(self, batch):
        """One step of the trainer's loop; returns the loss as a number."""
        _, losses = self.trainer.forward(batch, Meter(self.trainer.device), 1)
        self.trainer.optimizer.minimise(losses, self.trainer.scaler)
        return sum(losses.values()).item()


def settings_of(device, may_compile=True):
    """Values of SOLVER's keys for each setting that `device` can do, by name; the one that --fast gives says so."""
    exact = {"AMP": "none", "CHANNELS_LAST": True, "COMPILE": False}
    fast = fastest_settings(device)
    settings = {"float32": exact}
    if fast["AMP"] != "none":
        settings[fast["AMP"]] = exact | {"AMP": fast["AMP"]}
    if may_compile and fast["COMPILE"]:
        settings |= {f"{name}, compiled": values | {"COMPILE": True} for name, values in settings.items()}
    settings["float32, channels-last off"] = exact | {"CHANNELS_LAST": False}
    return {name + " (--fast)" * (values == fast): values for name, values in settings.items()}


def main_settings(settings):
    """Of `settings_of` the default and the fastest."""
    return {name: values for name, values in settings.items() if name == "float32" or "--fast" in name}


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run, device):
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def alternate(runs, repeats, device=CPU, warm_up=True):
    """Median seconds of each of `runs`, {name: function}, which take turns; warm_up: after a round not counted."""
    times = {name: [] for name in runs}
    for turn in range(repeats + warm_up):
        for name, run in runs.items():
            seconds = seconds_of(run, device)
            if turn >= warm_up:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def alternate_calls(calls, flags):
    """As `alternate`, for short functions: the seconds of one call, of as many as fill a while."""
    rounds = {}
    for name, call in calls.items():
        call()
        rounds[name] = max(1, min(flags.steps, int(SECONDS_A_MEASUREMENT / seconds_of(call, flags.device))))
    runs = {name: lambda call=call, n=rounds[name]: [call() for _ in range(n)] for name, call in calls.items()}
    seconds = alternate(runs, flags.repeats, flags.device, warm_up=False)
    return {name: seconds[name] / rounds[name] for name in calls}


@contextlib.contextmanager
def one_thread():
    """Within it PyTorch computes on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def with_peak_memory(run, device):
    """What `run` returns, and the MiB that PyTorch took from the GPU for it at its peak; None on a CPU.

    What is reserved, not what is in tensors: CUDA graphs keep memory that no tensor shows.
    """
    if device.type != "cuda":
        return run(), None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    result = run()
    return result, (torch.cuda.max_memory_reserved(device) - before) / 2**20


def extra_memory(run, device):
    """MiB that tensors made by `run` take at its peak: CUDA's own count, or the CPU allocator's events."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in trace_of(profiler) if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes), default=0) / 2**20


def trace_of(profiler):
    """The events of a finished torch profiler, as dicts of Chrome's trace format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


class ProfiledLoader:
    """A loader that tells `profiler` where a step ends."""

    def __init__(self, loader, profiler):
        self.loader, self.profiler = loader, profiler

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __iter__(self):
        for batch in self.loader:
            yield batch
            self.profiler.step()


def profile_steps(training):
    """`summary_of_trace` of PROFILED_STEPS steps of `training` on a GPU, in the middle of three times as many."""
    events = []
    profiler = torch.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
        schedule=torch.profiler.schedule(wait=PROFILED_STEPS - 1, warmup=1, active=PROFILED_STEPS, repeat=1),
        on_trace_ready=lambda profiler: events.extend(trace_of(profiler)),
    )
    images = first_images(training.image_set, 3 * PROFILED_STEPS * training.cfg.SOLVER.BATCH_SIZE)
    with profiler:
        training.train_on(ProfiledLoader(training.loader(images), profiler))
    return summary_of_trace(events)


WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"}
LONG_COPY = 100  # microseconds; a copy that lasts so long on the host waits for the GPU
GPU_WORK = {"kernel", "gpu_memcpy", "gpu_memset"}


def summary_of_trace(events):
    """Times a step that the host waits for the GPU, copies a step to the host, share of the time that the GPU works."""
    events = [event for event in events if event.get("ph") == "X"]
    steps = [e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith("ProfilerStep")]
    if not steps:
        raise RuntimeError("the profiler saw no step")
    start, end = min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)
    inside = [e for e in events if start <= e["ts"] < end]
    waits = sum(e["name"] in WAITS or ("cudaMemcpy" in e["name"] and e["dur"] > LONG_COPY) for e in inside)
    copies = sum(e.get("cat") == "gpu_memcpy" and "DtoH" in e["name"] for e in inside)
    busy, reached = 0.0, start
    for event in sorted((e for e in events if e.get("cat") in GPU_WORK), key=lambda e: e["ts"]):
        stop = min(event["ts"] + event["dur"], end)
        busy += max(0.0, stop - max(event["ts"], reached))
        reached = max(reached, stop)
    return waits / len(steps), copies / len(steps), busy / (end - start)


def matrix_rate(dtype, flags):
    """Operations a second of a large product: of matrices or in a convolution, whose libraries differ, the faster."""
    side = MATRIX_SIDE[flags.device.type]
    a, b = (torch.randn(side, side, device=flags.device).to(dtype) for _ in range(2))
    channels, shape = side // 8, (32, side // 8, 32, 32)
    image, weight = (
        torch.randn(size, device=flags.device).to(dtype=dtype, memory_format=torch.channels_last)
        for size in (shape, (channels, channels, 3, 3))
    )
    products = {"matrices": lambda: a @ b, "convolution": lambda: nn.functional.conv2d(image, weight, padding=1)}
    operations = {"matrices": 2 * side**3, "convolution": 2 * 9 * channels * image.numel()}
    seconds = alternate(products, flags.repeats, flags.device)
    return max(operations[name] / seconds[name] for name in products)


def copy_rate(flags):
    """Bytes a second, read and written, of copying a large tensor."""
    source = torch.zeros(COPIED_BYTES[flags.device.type], dtype=torch.uint8, device=flags.device)
    target = torch.empty_like(source)
    seconds = alternate({"copy": lambda: target.copy_(source)}, flags.repeats, flags.device)["copy"]
    return 2 * source.numel() / seconds


def operations_of(student, teacher, image):
    """Operations of one step: the teacher's forward, the student's forward and backward."""
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            teacher(image)
        student(image)[0].sum().backward()
    return counter.get_total_flops()


def numbers_moved(network, image):
    """Numbers that a forward reads and writes if all between two convolutions costs nothing."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += inputs[0].numel() + output.numel() + module.weight.numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


def limits(cfg, student, teacher, settings, seconds, flags):
    """Lines on the time that the arithmetic of one step takes at the device's rates, and how near the ways get.

    settings: of SOLVER, by name; seconds: of one step, by the same names.
    """
    image = torch.randn(cfg.SOLVER.BATCH_SIZE, 3, SIDE, SIDE, device=flags.device)
    student, teacher = (copy.deepcopy(network).to(flags.device) for network in (student, teacher))
    operations = operations_of(student.train(), teacher.eval(), image)
    numbers = numbers_moved(teacher, image) + 3 * numbers_moved(student, image)  # backward: two such products
    bandwidth = copy_rate(flags)
    lines = [
        f"one step: {operations / 1e9:.3g} GFLOP, {numbers / 1e6:.3g} million numbers in and out of convolutions; "
        f"copying here: {bandwidth / 1e9:.3g} GB/s"
    ]
    for name, values in main_settings(settings).items():
        set_backends(with_settings(cfg, values).SOLVER)
        dtype = AMP_TYPES[values["AMP"]] or torch.float32
        rate = matrix_rate(dtype, flags)
        by_rate, by_bandwidth = operations / rate, numbers * dtype.itemsize / bandwidth
        lines.append(
            f"{name}: large products run at {rate / 1e9:.4g} GFLOP/s here, which allows {1000 * by_rate:.3g} ms a "
            f"step, the bandwidth {1000 * by_bandwidth:.3g} ms; reached: "
            f"{max(by_rate, by_bandwidth) / seconds[name]:.0%} of the larger"
        )
    return lines


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    return ImageSet(images, targets, [str(i) for i in range(CLASSES)])


def first_images(image_set, count):
    return ImageSet(image_set.images[:count], image_set.targets[:count], image_set.classes)


def config_of(flags, batch_size):
    """The config of the scripts' preset for the pair and method in `flags`."""
    pairs = ["SOLVER.BATCH_SIZE", str(batch_size), "DATASET.AUGMENT", flags.augment]
    chosen = {f"selected_{role}": getattr(flags, role) for role in ("student", "teacher")}
    options = argparse.Namespace(
        **chosen, selected_distiller=flags.method, pairs=pairs, cfg=None, seed=None, fast=False, teacher_weights=None
    )
    return distillation_config(CIFAR100, options, flags.device)


def with_settings(cfg, values):
    cfg = cfg.clone()
    cfg.SOLVER.update(values)
    return cfg


@torch.no_grad()
def build_networks(cfg):
    """Student and teacher with random weights; the teacher's batch norms have seen images, as a trained one's have."""
    torch.manual_seed(0)
    student, teacher = (
        build_model("cifar100", name, CLASSES) for name in (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER)
    )
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    teacher.train()(torch.randn(64, 3, SIDE, SIDE))
    return student, teacher.eval()


def build_trainings(cfg, student, teacher, image_set, settings, flags):
    """The plain way and each of `settings`, warmed up: {name: training}, and the memory that each took."""
    torch.compiler.reset()  # it refuses to compile one network for too many
    plain = OwnProcess(plain_training, cfg, len(image_set), flags.device, flags.workers)
    trainings = {"plain": plain} | {
        name: Training(with_settings(cfg, values), *copy.deepcopy((student, teacher)), image_set, flags.device)
        for name, values in settings.items()
    }
    return trainings, {name: training.prepare() for name, training in trainings.items()}


def time_epochs(trainings, flags, warm_up):
    """Median seconds of an epoch, and the number of its steps and images."""
    seconds = alternate({name: t.train_epoch for name, t in trainings.items()}, flags.repeats, flags.device, warm_up)
    *_, ours = trainings.values()
    epoch = ours.epoch
    return seconds, len(epoch), epoch.num_images_per_epoch


def title_of(cfg):
    node = cfg.DISTILLER
    return f"{node.TEACHER} → {node.STUDENT} {node.TYPE}, {cfg.DATASET.AUGMENT}, batch {cfg.SOLVER.BATCH_SIZE}"


def loss_differences(cfg, student, teacher, image_set, device):
    """The largest relative difference from the plain way's loss over EQUAL_STEPS steps of float32 from the same state.

    Returns that of ours, and that of the plain way from weights changed by one rounding: what no two ways can avoid.
    """
    cfg = with_settings(cfg, {"LR": EQUAL_LR})
    plain, changed = (PlainTraining(cfg, *copy.deepcopy((student, teacher)), image_set, device) for _ in range(2))
    ours = Training(cfg, *copy.deepcopy((student, teacher)), image_set, device)
    with torch.no_grad():
        for parameter in changed.distiller.student.parameters():
            parameter.mul_(1 + ROUNDING * torch.randn_like(parameter).sign())
    set_backends(cfg.SOLVER)
    for distiller in (plain.distiller, changed.distiller, ours.trainer.distiller):
        distiller.train()
    differences = []
    for batch in itertools.islice(ours.loader(ours.image_set), EQUAL_STEPS):
        same = batch["image"].contiguous(), batch["target"], batch["index"]
        loss = plain.step(*same)[0]
        differences.append([abs(other - loss) / abs(loss) for other in (ours.step(batch), changed.step(*same)[0])])
    return np.max(differences, axis=0).tolist()  # NaN where one is


def check_losses(report, difference, of_rounding):
    """Note in `report` whether the losses are as near as they must be, and set `is_wrong` where not."""
    is_equal = difference < EQUAL_TO  # not of NaN
    report.is_wrong = report.is_wrong or not is_equal
    report.notes.append(
        f"losses of float32 and of the plain way over {EQUAL_STEPS} steps from the same state, at learning rate "
        f"{EQUAL_LR}: {'equal' if is_equal else 'FAILED'}, largest relative difference {difference:.1e} (allowed "
        f"{EQUAL_TO:.0e}; the plain way with weights changed by one rounding: {of_rounding:.1e})"
    )


def measure_step(flags):
    """Whole training steps, data included, the plain way and in each setting."""
    report = Report()
    for batch_size in flags.batch_size:
        cfg = config_of(flags, batch_size)
        networks, settings = build_networks(cfg), settings_of(flags.device, flags.compile)
        same_images, image_set = random_images(EQUAL_STEPS * batch_size), random_images(flags.steps * batch_size)
        check_losses(report, *loss_differences(cfg, *networks, same_images, flags.device))
        trainings, memory = build_trainings(cfg, *networks, image_set, settings, flags)
        seconds, steps, images = time_epochs(trainings, flags, warm_up=True)
        seconds = {name: value / steps for name, value in seconds.items()}
        rows = [Row(title_of(cfg), name, value, images / steps, memory[name]) for name, value in seconds.items()]
        report.rows += rows
        report.notes += limits(cfg, *networks, settings, seconds, flags)
        trainings["plain"].close()
    return report


def measure_epoch(flags):
    """One epoch the plain way, in float32 and with --fast; on CUDA also what the profiler sees of each."""
    report, is_cuda = Report(), flags.device.type == "cuda"
    image_set = random_images(flags.images or (50_000 if is_cuda else 1024))
    settings = main_settings(settings_of(flags.device, flags.compile))
    for batch_size in flags.batch_size:
        cfg = config_of(flags, batch_size)
        networks = build_networks(cfg)
        trainings, memory = build_trainings(cfg, *networks, image_set, settings, flags)
        seconds, steps, images = time_epochs(trainings, flags, warm_up=False)
        for name, value in seconds.items():
            report.rows.append(Row(title_of(cfg), name, value / steps, images / steps, memory[name]))
            line = f"batch {batch_size}, {name}: an epoch of {images:,} images takes {value:.2f} s"
            if is_cuda:
                waits, copies, busy = trainings[name].profile()
                line += (
                    f"; in {PROFILED_STEPS} steps under the profiler the host waits {waits:.2g} times a step, "
                    f"{copies:.2g} copies a step go to the host, the GPU is busy {busy:.0%} of the time"
                )
            report.notes.append(line)
        trainings["plain"].close()
    if is_cuda:
        report.notes.append("our waits are the progress bar's reading, at most twice a second")
    return report


def measure_loader(flags):
    """Small images augmented and normalised by one core, without workers; on CUDA also by the GPU."""
    report, images, device = Report(), random_images(flags.images or 4096), CPU
    options = {"shuffle": True, "memory_format": torch.channels_last}
    with one_thread():
        for batch_size, augment in itertools.product(flags.batch_size, ("weak", "strong", "weak+strong")):
            loaders = {"PIL": plain_loader(images, batch_size, augment, workers=0)}
            loaders["ours"] = Loader(images, batch_size, *STATISTICS, augment, **options)
            if flags.device.type == "cuda":
                device = flags.device
                loaders["ours, on the GPU"] = Loader(images.to(device), batch_size, *STATISTICS, augment, **options)
            steps, count = len(loaders["ours"]), loaders["ours"].num_images_per_epoch
            what = f"{augment}, a core, batch {batch_size}"
            report.rows += time_loaders(what, loaders, steps, count, flags.repeats, device)
    return report


def time_loaders(what, loaders, steps, images, repeats, device=CPU):
    runs = {name: lambda loader=loader: [None for _ in loader] for name, loader in loaders.items()}
    seconds = alternate(runs, repeats, device)
    return [Row(what, name, value / steps, images / steps) for name, value in seconds.items()]


def measure_files(flags):
    """Photographs decoded, cropped, mirrored and normalised by one core, in batches on the CPU."""
    report, files, settings = Report(), find_images(flags.root, "test"), DATASETS["imagenet"]
    statistics_of = settings.mean, settings.std
    with one_thread():
        for batch_size in flags.batch_size:
            plain = DataLoader(PlainFiles(files, flags.image_size, *statistics_of), batch_size, shuffle=True)
            ours = FileLoader(
                files, batch_size, *statistics_of, flags.image_size, augment="weak", shuffle=True,
                memory_format=torch.channels_last,
            )  # fmt: skip
            loaders = {"PIL, transforms v1": plain, "ours": ours}
            report.rows += time_loaders("photographs, a core", loaders, len(plain), len(files), flags.repeats)
    return report


def measure_teacher(flags):
    """The teacher's forward, one gain after the other."""
    report, device = Report(), flags.device
    fast = fastest_settings(device)
    exact = {"AMP": "none", "COMPILE": False}
    for batch_size in flags.batch_size:
        torch.compiler.reset()
        cfg = config_of(flags, batch_size)
        _, teacher = build_networks(cfg)
        folded = fold_batch_norms(teacher)
        ways = {"plain": (teacher, False, exact), "channels-last": (teacher, True, exact)}
        ways["channels-last, folded"] = folded, True, exact
        if fast["AMP"] != "none":
            ways[f"channels-last, folded, {fast['AMP']}"] = folded, True, exact | {"AMP": fast["AMP"]}
        if flags.compile and fast["COMPILE"]:
            for name in [name for name in ways if "folded" in name]:
                ways[f"{name}, compiled"] = folded, True, ways[name][2] | {"COMPILE": True}
        image = torch.randn(batch_size, 3, SIDE, SIDE, device=device)
        calls, memory = {}, {}
        for name, (network, is_channels_last, values) in ways.items():
            make = functools.partial(prepared_forward, network, image, is_channels_last, with_settings(cfg, values))
            calls[name], memory[name] = with_peak_memory(make, device)
        seconds = alternate_calls(calls, flags)
        what = f"{cfg.DISTILLER.TEACHER} forward, batch {batch_size}"
        report.rows += [Row(what, name, value, batch_size, memory[name]) for name, value in seconds.items()]
    return report


def prepared_forward(network, image, is_channels_last, cfg):
    """A function that runs a copy of `network`, laid out for it and warmed up, on `image`."""
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    network = copy.deepcopy(network).eval().requires_grad_(False).to(image.device, memory_format=layout)
    image = image.to(memory_format=layout)
    if cfg.SOLVER.COMPILE:
        is_cuda = image.device.type == "cuda"
        compile_network(network, **({"mode": "reduce-overhead"} if is_cuda else {"options": {"freezing": True}}))

    def forward():
        set_backends(cfg.SOLVER) if is_channels_last else set_plain_backends()
        begin_step(image.device, cfg.SOLVER)
        with torch.no_grad(), autocast(cfg.SOLVER, image.device):
            return network(image)

    for _ in range(WARM_UP_STEPS):
        forward()
    return forward


def loss_cases(device):
    """(what, {way: loss of two lists of tensors}, the students' tensors, the teachers') of the losses to compare."""

    def skd(loss):
        return lambda students, teachers: loss(students[0], teachers[0], SKD_TIKHONOV, scale=CLASSES)

    def rkd(loss):
        def total(students, teachers):
            pair, (of_distance, of_angle) = (students[0], teachers[0]), RKD_WEIGHTS
            return of_distance * distance_loss(*pair, squared=False, eps=1e-12) + of_angle * loss(*pair)

        return total

    def nst(loss):
        return lambda students, teachers: sum(map(loss, students, teachers))

    for name, make, ways, shapes in (
        *(("SKD direction", skd, (direction_loss_reference, direction_loss), [(b, CLASSES)]) for b in SKD_BATCHES),
        *(("RKD", rkd, (angle_loss_reference, angle_loss), [(b, RKD_WIDTH)]) for b in RKD_BATCHES),
        ("NST", nst, (nst_loss_reference, nst_loss), [(NST_BATCH, *shape) for shape in NST_MAPS]),
    ):
        generator = torch.Generator().manual_seed(0)
        students, teachers = ([torch.randn(s, generator=generator).to(device) for s in shapes] for _ in range(2))
        ways = {way: make(loss) for way, loss in zip(("published", "ours"), ways, strict=True)}
        yield f"{name}, batch {shapes[0][0]}", ways, [x.requires_grad_() for x in students], teachers


def measure_losses(flags):
    """Forward and backward of the losses that cost most, against their published forms."""
    report = Report()
    torch.backends.cuda.matmul.allow_tf32 = False
    for what, ways, students, teachers in loss_cases(flags.device):
        calls = {
            way: lambda loss=loss, s=students, t=teachers: torch.autograd.grad(loss(s, t), s)
            for way, loss in ways.items()
        }
        seconds = alternate_calls(calls, flags)
        report.rows += [Row(what, way, seconds[way], None, extra_memory(calls[way], flags.device)) for way in calls]
    report.notes.append(memory_note(flags.device))
    return report


def memory_note(device):
    counted = "torch.cuda.max_memory_allocated" if device.type == "cuda" else "the profiler's memory events"
    return f"peak MiB: of the tensors that one forward and backward makes, by {counted}"


def measure_crd(flags):
    """CRD's negatives for one batch, and the scoring of them, forward and backward."""
    device, generator = flags.device, torch.Generator().manual_seed(0)
    targets = torch.arange(CRD_IMAGES) % CLASSES
    index = torch.randperm(CRD_IMAGES, generator=generator)[:CRD_BATCH]
    rows, labels = index.tolist(), targets.numpy()
    others = [np.flatnonzero(labels != label) for label in range(CLASSES)]
    sampler = Sampler(seed=0).to(device)
    sampler.set_targets(targets.to(device))
    index = index.to(device)

    def plain():
        return torch.from_numpy(plain_negatives(rows, labels, others, CRD_NEGATIVES)).to(device)

    draws = {"np.random.choice an image": plain, "ours": lambda: sampler.draw(index, CRD_NEGATIVES, is_exact=True)}
    what, seconds = f"CRD negatives, batch {CRD_BATCH}", alternate_calls(draws, flags)
    report = Report([Row(what, name, seconds[name], CRD_BATCH) for name in draws])
    memory, embedding = (
        nn.functional.normalize(torch.randn(count, CRD_WIDTH, generator=generator), dim=1).to(device)
        for count in (CRD_IMAGES, CRD_BATCH)
    )
    embedding.requires_grad_()
    samples = draws["ours"]()

    def forward_backward(score):
        return torch.autograd.grad(score(embedding, memory, samples, CRD_TEMPERATURE).sum(), embedding)

    scores = {"gathered": plain_scores, "ours": memory_scores}
    calls = {name: functools.partial(forward_backward, score) for name, score in scores.items()}
    what, seconds = f"CRD scoring, batch {CRD_BATCH}", alternate_calls(calls, flags)
    report.rows += [Row(what, name, seconds[name], CRD_BATCH, extra_memory(calls[name], device)) for name in calls]
    report.notes.append(memory_note(device))
    return report


PARTS = {
    "step": measure_step,
    "loader": measure_loader,
    "teacher": measure_teacher,
    "losses": measure_losses,
    "crd": measure_crd,
    "epoch": measure_epoch,
    "files": measure_files,
}


def table_of(rows):
    """Rows as text; of the ways to do the same the first is what the others are compared with."""
    lines, plain = [("what", "way", "images/s", "ms a step", "peak MiB", "ratio")], {}
    for row in rows:
        ratio = plain.setdefault(row.what, row.seconds) / row.seconds
        rate = "" if row.images is None else rounded(row.images / row.seconds)
        memory = "" if row.memory is None else rounded(row.memory)
        lines.append((row.what, row.way, rate, rounded(1000 * row.seconds), memory, f"{ratio:.2f}"))
    return align(lines)


def rounded(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="step")
    parser.add_argument("--teacher", default="resnet56", help="index or name, as in the scripts (default resnet56)")
    parser.add_argument("--student", default="resnet20", help="index or name (default resnet20)")
    parser.add_argument("--method", default="KD", help="index or name (default KD)")
    parser.add_argument(
        "--augment", choices=("weak", "strong", "weak+strong"), default="weak", help="of step and epoch (default weak)"
    )
    parser.add_argument(
        "--batch_size", type=int, nargs="+", help="one or several (default 64; of epoch 64 512; of files 32)"
    )
    parser.add_argument(
        "--images", type=int, help="random images of epoch (default 50000 on CUDA, 1024 on a CPU) and loader (4096)"
    )
    parser.add_argument("--steps", type=int, default=20, help="of one measurement; at most so many, of short functions")
    parser.add_argument("--repeats", type=int, help="of which the median counts (default 5; of epoch 3)")
    parser.add_argument("--workers", type=int, help="of the plain loader (default 2, at most one a core)")
    parser.add_argument("--threads", type=int, help="of PyTorch (default as it chooses)")
    parser.add_argument("--no_compile", dest="compile", action="store_false", help="leave compiled settings out")
    parser.add_argument("--device", help="cpu, cuda … (default CUDA where there is a GPU, else the CPU)")
    parser.add_argument("--root", default="data/imagenet", help="of files: photographs, in ROOT/val/<class>/")
    parser.add_argument("--image_size", type=int, default=224, help="of files")
    flags = parser.parse_args(arguments)
    flags.batch_size = flags.batch_size or {"epoch": [64, 512], "files": [32]}.get(flags.part, [64])
    flags.repeats = flags.repeats or (3 if flags.part == "epoch" else 5)
    flags.workers = min(2, available_cores()) if flags.workers is None else flags.workers
    return flags


def main(arguments=None):
    flags = parse(arguments)
    flags.device = select_device(flags.device)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    name = torch.cuda.get_device_name(flags.device) if flags.device.type == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {flags.repeats}")
    report = PARTS[flags.part](flags)
    print("\n".join([table_of(report.rows), *report.notes]))
    if report.is_wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run_script(main))
