"""Configs of all kinds: each resolves, or is refused in one line, at once; what resolves gives finite losses.

The inputs are the same in every run. FUZZ=2000 tries as many of each kind, others every time.
"""

import os
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG, leaves
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.optim import build_minimiser
from mdistiller.engine.resolve import Choices, distillation_config
from mdistiller.engine.runs import CONFIGS
from mdistiller.errors import UserError
from mdistiller.models import build_model

LONGEST = 1.0  # second
LARGEST_SIDE = 64  # pixels of images that are trained on here
PRESETS = sorted((CONFIGS / "cifar100").glob("*.yaml"))
PIECES = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\t", b"\n", b"\r", b"  ", b": ", b":", b"- ", b"? ", b"{", b"}", b"[", b"]"),
    *(b"#", b"'", b'"', b"|\n", b">\n", b"%YAML 9.9\n", b"---\n", b"...\n", b"&a ", b"*a", b"&a [*a]", b"<<: *a\n"),
    *(
        b"!!python/object/apply:os.getcwd []",
        b"!!binary aa==",
        b"!!set {a}",
        b"!x ",
        b"010",
        b"0x1F",
        b"1:30",
        b"1e999",
    ),
    *(b".nan", b".inf", b"-1", b"~", b"null", b"no", b"2024-01-01", b"2024-13-45", b"9" * 400, b"9" * 5000, b"1" * 20),
    *(b"SOLVER:\n", b"  LR: ", b"DKD:\n", b"DISTILLER: {TYPE: KD}\n", b"_BASE_: ", b"_BASE_: KD.yaml\n", b"\xc2\x85"),
    *(b"\xed\xa0\x80", b'"\\0"', b"[" * 50, b"{a: " * 50, b"1_000", b".5", b"\xe2\x80\xa8", b"? [a]\n: b\n"),
]
MUTATIONS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 30),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=4), st.integers(0, 60)),
    ),
    min_size=1,
    max_size=6,
)

KEYS = [key for key in leaves(CFG) if key != "DISTILLER.TYPE"]
TEXTS = [
    *(
        "",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "1.5",
        "1e3",
        "0.02",
        "0.001",
        "1e-3",
        "1e-8",
        "1e-20",
        "1e-300",
        "5e-324",
        "1e300",
    ),
    *(
        "1e4",
        "1000000",
        "1000001",
        "65536",
        "131072",
        "1e6",
        "500",
        "0.999999999",
        "0.95",
        "100",
        ".nan",
        ".inf",
        "-.inf",
    ),
    *(
        "9223372036854775807",
        "18446744073709551616",
        "9" * 300,
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 5000,
        "010",
        "1:30",
    ),
    *("true", "no", "null", "~", "a\0b", "a\udcffb", "x" * 5000, "a: b", "set #1", "[]", "[1]", "[1,1]", "[0,0,0]"),
    *("[1,1,1]", "[0.5,0.5,0.5]", "[300,5,5]", "[1,true]", "[1,2,4]", "[.nan]", "[[1]]", "{}", "{a: 1}", "(32,32)"),
    *("[1e300,2]", f"[{','.join(map(str, range(1, 102)))}]", f"[{'1e-3,' * 99}1e4]", "[8,8]", "dot", "bf16", "fp16"),
    *("weak", "two-view", "paper", "intended", "relax", "synthetic", "folder", "crd_dot", "resnet14", "(" * 5000),
]
VALUES = st.one_of(
    st.sampled_from(TEXTS),
    st.floats().map(repr),
    st.integers(-10, 2**70).map(str),
    st.lists(st.floats(0, 1e4), max_size=5).map(str),
    st.lists(st.integers(0, 20), max_size=5).map(str),
)


def fuzz(examples):
    by_hand = os.environ.get("FUZZ")
    return settings(
        max_examples=int(by_hand or examples),
        derandomize=not by_hand,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def resolve(**choices):
    """The config, or None where it is refused; anything else fails."""
    start, cfg = time.process_time(), None
    try:
        cfg = distillation_config(CIFAR100, Choices(**choices), torch.device("cpu"))
    except UserError as error:
        assert str(error).strip() and "Traceback" not in str(error)
    assert time.process_time() - start < LONGEST
    return cfg


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A copy of the presets, beside which files that begin with them lie."""
    folder = tmp_path_factory.mktemp("presets")
    for path in PRESETS:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@fuzz(150)
@given(path=st.sampled_from(PRESETS), mutations=MUTATIONS)
def test_a_preset_that_is_damaged_resolves_or_is_refused_in_one_line(presets, path, mutations):
    text = path.read_bytes()
    for place, removed, added in mutations:
        start = int(place * len(text))
        end = start + removed
        if isinstance(added, int):  # from here again, elsewhere
            text = text[:start] + text[end : end + added] + text[start:]
        else:
            text = text[:start] + added + text[end:]
    (presets / "mutated.yaml").write_bytes(text)
    resolve(cfg=presets / "mutated.yaml")


@st.composite
def settings_of_a_method(draw):
    """A method and up to four keys that it reads, with values."""
    method = draw(st.sampled_from(list(DISTILLERS.values())))
    own = [key for key in KEYS if key.split(".")[0] in method.sections()]
    shared = [key for key in KEYS if key.split(".")[0] in ("EXPERIMENT", "DATASET", "DISTILLER", "SOLVER", "LOG")]
    keys = draw(st.lists(st.sampled_from(own * 4 + shared), min_size=1, max_size=4))
    return method, [part for key in keys for part in (key, draw(VALUES))]


def losses_of_a_step(cfg):
    """The losses of one training step of two tiny networks on random images."""
    torch.manual_seed(0)
    student, teacher = (build_model("cifar100", "resnet8", 5) for _ in range(2))
    teacher = teacher if DISTILLERS[cfg.DISTILLER.TYPE].needs_teacher else None
    targets = torch.arange(6) % 5
    distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, num_data=len(targets)).train()
    distiller.set_targets(targets)
    minimiser = build_minimiser(cfg.SOLVER, distiller.get_learnable_parameters())
    images = torch.randn(6, 3, cfg.DATASET.IMAGE_SIZE, cfg.DATASET.IMAGE_SIZE)
    more = {"image_weak": images, "image_strong": images.flip(3), "index": torch.arange(6), "epoch": cfg.SOLVER.EPOCHS}
    _, losses = distiller(image=images, target=targets, **more)
    minimiser.backward(losses)
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    minimiser.step()
    return [*losses.values(), *gradients]


@fuzz(120)
@given(chosen=settings_of_a_method())
def test_values_of_all_kinds_are_refused_in_one_line_or_give_finite_losses(chosen):
    method, pairs = chosen
    cfg = resolve(selected_distiller=method.__name__, pairs=pairs)
    if cfg is None or cfg.DATASET.IMAGE_SIZE > LARGEST_SIDE:
        return
    try:
        values = losses_of_a_step(cfg)
    except UserError:
        return
    assert all(value.isfinite().all() for value in values)
