"""The benchmark runs and measures what it says; no clock is looked at."""

import re

import pytest
import torch
import torch.nn.functional as F

from mdistiller.dataset import Loader
from mdistiller.dataset.augment import CUTOUT_COLOUR, operation_table, weak
from mdistiller.engine.cfg import CFG
from tests.dataset.pil_oracle import PIL_OPERATIONS
from tools import benchmark

PAIR = "--teacher resnet8 --student resnet8 --batch_size 4 --steps 2 --repeats 1 --workers 0 --device cpu".split()
FAST = {"AMP": "bf16", "CHANNELS_LAST": True, "COMPILE": True}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    small = {"SKD_BATCHES": (4, 8), "RKD_BATCHES": (4, 8), "NST_BATCH": 2, "NST_MAPS": ((3, 4, 4), (5, 2, 2))}
    small |= {"CRD_IMAGES": 200, "CRD_NEGATIVES": 16, "MATRIX_SIDE": {"cpu": 16}, "COPIED_BYTES": {"cpu": 1024}}
    small |= {"SECONDS_A_MEASUREMENT": 0.01, "EQUAL_STEPS": 3}
    for name, value in small.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "fastest_settings", lambda device: FAST)


@pytest.fixture
def run(capsys):
    def run(part, *arguments):
        benchmark.main(["--part", part, *PAIR, "--no_compile", *arguments])
        lines = capsys.readouterr().out.splitlines()[1:]
        header = re.split(r"\s{2,}", lines[0])
        assert header == ["what", "way", "images/s", "ms a step", "peak MiB", "ratio"]
        starts = [lines[0].index(name) for name in header]
        rows, notes = [], []
        for line in lines[1:]:
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            is_row = not notes and re.fullmatch(r"\d+\.\d\d", cells[-1])
            rows.append(dict(zip(header, cells, strict=True))) if is_row else notes.append(line)
        return rows, notes

    return run


def ways_of(rows):
    ways = {}
    for row in rows:
        ways.setdefault(row["what"], []).append(row["way"])
    return ways


def images(count=8, seed=0):
    torch.manual_seed(seed)
    image_set = benchmark.random_images(count)
    image_set.images[:, :, :16] //= 2
    return image_set


def plain_bytes(augment, image_set):
    """What the plain way makes of the images, before normalisation, as uint8 (n, 3, 32, 32)."""
    batches = benchmark.plain_loader(image_set, 4, augment, workers=0, shuffle=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in benchmark.STATISTICS)
    return torch.cat([(image * std + mean) * 255 for image, _, _ in batches]).round().to(torch.uint8)


@pytest.mark.parametrize("method", ["KD", "CRD"])
def test_step_has_a_row_a_setting_and_its_notes(run, method):
    rows, notes = run("step", "--method", method, "--workers", "1" if method == "KD" else "0")
    assert ways_of(rows) == {
        f"resnet8 → resnet8 {method}, weak, batch 4": ["plain", "float32", "bf16", "float32, channels-last off"]
    }
    assert all(float(row["images/s"]) > 0 and float(row["ms a step"]) > 0 and row["peak MiB"] == "" for row in rows)
    assert rows[0]["ratio"] == "1.00"
    assert "equal, largest relative difference" in notes[0]
    assert "GFLOP" in notes[1] and "GB/s" in notes[1] and notes[2].startswith("float32: ")


def test_epoch_has_each_batch_size(run):
    rows, notes = run("epoch", "--images", "10", "--batch_size", "4", "8", "--augment", "weak+strong")
    ways = ["plain", "float32"]
    assert ways_of(rows) == {f"resnet8 → resnet8 KD, weak+strong, batch {size}": ways for size in (4, 8)}
    assert len(notes) == 4 and all("an epoch of 20 images takes" in note for note in notes)


def test_loader_has_each_augmentation(run):
    rows, _ = run("loader", "--images", "8")
    what = [f"{augment}, a core, batch 4" for augment in ("weak", "strong", "weak+strong")]
    assert ways_of(rows) == {name: ["PIL", "ours"] for name in what}


def test_teacher_has_one_gain_after_the_other(run):
    rows, _ = run("teacher")
    ways = ["plain", "channels-last", "channels-last, folded", "channels-last, folded, bf16"]
    assert ways_of(rows) == {"resnet8 forward, batch 4": ways}


def test_losses_have_both_forms_and_their_memory(run):
    rows, notes = run("losses")
    what = [f"{name}, batch {size}" for name in ("SKD direction", "RKD") for size in (4, 8)] + ["NST, batch 2"]
    assert ways_of(rows) == {name: ["published", "ours"] for name in what}
    assert all(float(row["peak MiB"]) > 0 and row["images/s"] == "" for row in rows)
    assert "profiler" in notes[0]


def test_crd_has_negatives_and_scoring(run):
    rows, _ = run("crd")
    assert ways_of(rows) == {
        "CRD negatives, batch 64": ["np.random.choice an image", "ours"],
        "CRD scoring, batch 64": ["gathered", "ours"],
    }


def test_files_reads_photographs(run, photographs):
    rows, _ = run("files", "--root", str(photographs), "--image_size", "32")
    assert ways_of(rows) == {"photographs, a core": ["PIL, transforms v1", "ours"]}


def test_settings_name_what_fast_gives_and_leave_out_what_the_device_cannot_do(monkeypatch):
    device = torch.device("cpu")
    assert list(benchmark.settings_of(device)) == [
        *("float32", "bf16", "float32, compiled", "bf16, compiled (--fast)", "float32, channels-last off")
    ]
    monkeypatch.setattr(benchmark, "fastest_settings", lambda device: FAST | {"AMP": "none", "COMPILE": False})
    settings = benchmark.settings_of(device)
    assert list(settings) == ["float32 (--fast)", "float32, channels-last off"]
    assert list(benchmark.main_settings(settings)) == ["float32 (--fast)"]
    assert set(settings["float32 (--fast)"]) <= set(CFG.SOLVER)


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_losses_that_differ_fail_the_benchmark(monkeypatch, capsys, error):
    step = benchmark.Training.step
    monkeypatch.setattr(benchmark.Training, "step", lambda self, batch: step(self, batch) + error)
    with pytest.raises(SystemExit) as exit_:
        benchmark.main(["--part", "step", *PAIR, "--no_compile"])
    assert exit_.value.code == 1 and "FAILED" in capsys.readouterr().out


def test_without_augmentation_both_loaders_give_the_same_batches():
    image_set = images()
    plain = list(benchmark.plain_loader(image_set, 4, "none", workers=0, shuffle=False))
    ours = list(Loader(image_set, 4, *benchmark.STATISTICS))
    for (image, target, index), batch in zip(plain, ours, strict=True):
        torch.testing.assert_close(image, batch["image"])
        assert torch.equal(target, batch["target"]) and torch.equal(index, batch["index"])


def test_both_weak_augmentations_are_crops_of_the_padded_image_or_its_mirror():
    image_set = images()
    for results in (plain_bytes("weak", image_set), weak(image_set.images, torch.Generator().manual_seed(0))):
        for image, result in zip(image_set.images, results, strict=True):
            padded = [F.pad(view, [4] * 4) for view in (image, image.flip(2))]
            crops = [view[:, y : y + 32, x : x + 32] for view in padded for y in range(9) for x in range(9)]
            assert any(torch.equal(result, crop) for crop in crops)


@pytest.mark.parametrize("name", operation_table())
def test_the_plain_operations_are_those_of_the_batched_augmentation(name):
    image_set, (operation, low, high) = images(), operation_table()[name]
    magnitudes = torch.linspace(low, high, len(image_set))
    pictures = benchmark.PlainImages(image_set, "none").pictures
    results = [PIL_OPERATIONS[name](*pair) for pair in zip(pictures, magnitudes.tolist(), strict=True)]
    plain = torch.stack([torch.frombuffer(bytearray(r.tobytes()), dtype=torch.uint8).view(32, 32, 3) for r in results])
    assert torch.equal(plain.permute(0, 3, 1, 2), operation(image_set.images, magnitudes))


def test_the_plain_strong_augmentation_distorts_and_cuts_out():
    image_set = images(64)
    result = plain_bytes("strong", image_set)
    colour = torch.tensor(CUTOUT_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    painted = (result == colour).all(1).sum((1, 2))
    assert result.shape == image_set.images.shape
    assert painted.max() <= 17 * 17 and (painted > 0).float().mean() > 0.5  # PIL paints both ends of a side


def test_a_trace_tells_waits_copies_and_the_busy_share():
    def event(category, name, start, duration):
        return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration}

    events = [
        event("user_annotation", "ProfilerStep#1", 0, 50),
        event("user_annotation", "ProfilerStep#2", 50, 50),
        event("gpu_user_annotation", "ProfilerStep#1", 0, 100),
        event("kernel", "convolution", -10, 20),
        event("kernel", "sum", 5, 15),
        event("kernel", "long", 30, 20),
        event("kernel", "inside the long one", 35, 5),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 90, 30),
        event("cuda_runtime", "cudaStreamSynchronize", 80, 5),
        event("cuda_runtime", "cudaMemcpyAsync", 85, 150),
        event("cuda_runtime", "cudaMemcpyAsync", 20, 5),
        event("cuda_runtime", "cudaDeviceSynchronize", 101, 20),
        {"ph": "i", "name": "[memory]", "ts": 1},
    ]
    waits, copies, busy = benchmark.summary_of_trace(events)
    assert (waits, copies) == (1, 0.5)
    assert busy == pytest.approx((20 + 20 + 10) / 100)


def test_memory_is_that_of_the_tensors_at_their_peak():
    def run():
        torch.zeros(2**18).exp()
        torch.zeros(2**18)

    assert benchmark.extra_memory(run, torch.device("cpu")) == pytest.approx(2, abs=0.1)


def test_operations_and_numbers_of_a_convolution():
    layer = torch.nn.Conv2d(3, 5, 1, bias=False)
    image = torch.zeros(2, 3, 4, 4)
    assert benchmark.numbers_moved(layer, image) == image.numel() + 2 * 5 * 16 + 15
    forward = 2 * 2 * 16 * 15
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    # The student's image needs no gradient, and so its only layer has two products.
    assert benchmark.operations_of(Tuple(student), Tuple(layer), image) == forward + 2 * (2 * 2 * 48 * 5)


class Tuple(torch.nn.Module):
    """A network of one layer that returns features, none, as networks here do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x), {}
