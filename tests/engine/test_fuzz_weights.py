"""Weight files of all kinds of wrong: each loads, or is a UserError in one line.

FUZZ=2000 tries as many new ones in place of the few that are always the same.
"""

import contextlib
import io
import os
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdistiller.engine.evaluate import Evaluator
from mdistiller.engine.identity import why_kept
from mdistiller.engine.students import weight_file
from mdistiller.engine.weights import load_weights
from mdistiller.errors import UserError
from mdistiller.models import build_model

EXAMPLES = int(os.environ.get("FUZZ", 100))
NETWORK = build_model("cifar100", "resnet8", 4)
WEIGHTS = NETWORK.state_dict()
META = {"run": "a", "top1": 50.0, "dataset": {"type": "folder", "classes": list("abcd"), "image_size": 32}}

WORDS = st.sampled_from("model state_dict net ema teacher student module a.b meta dataset classes config".split())
KEYS = st.one_of(WORDS, st.sampled_from(["", ".", "fc.bias", 0, -1, None, True, 1.5, b"a"]), st.text(max_size=5))
TYPES = st.sampled_from(
    "float32 float64 float16 bfloat16 int64 int32 int8 uint8 uint16 bool complex64 float8_e5m2 bits8".split()
)
SHAPES = st.sampled_from([(), (0,), (1,), (4,), (16,), (64,), (4, 64), (16, 3, 3, 3), (1,) * 9, (2**20, 0)])
CONFIGS = st.sampled_from(["a: [", "DATASET: 5", "DATASET: {ROOT: /x, SYNTHETIC: {TEST_IMAGES: 1.0e+13}}", "- 1", ""])


@st.composite
def tensors(draw, shape=None):
    """Plain tensors of any type, and others; of the `shape`, where one is given, or any."""
    kind = draw(
        st.sampled_from(["plain", "plain", "bad", "expanded", "strided", "sparse", "meta", "parameter", "conj"])
    )
    shape, dtype = draw(SHAPES) if shape is None else shape, getattr(torch, draw(TYPES))
    if dtype == torch.bits8:
        return torch.zeros(shape, dtype=torch.uint8).view(dtype)
    value = torch.ones(shape).to(dtype)
    if kind == "bad":
        return torch.full(shape, draw(st.sampled_from([float("nan"), float("inf"), -1.0])))
    if kind == "expanded":
        return torch.ones(1).expand(draw(st.sampled_from([4, 16, 10**12])))
    if kind == "strided":
        return torch.ones(200, 64)[::50]
    if kind == "sparse":
        return torch.eye(3).to_sparse()
    if kind == "meta":
        return torch.ones(shape, device="meta")
    if kind == "parameter" and value.is_floating_point():
        return torch.nn.Parameter(value)
    return torch.ones(shape, dtype=torch.complex64).conj() if kind == "conj" else value


NUMBERS = st.sampled_from([np.float64(3), np.float32(1), np.int64(2)])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), CONFIGS, NUMBERS, tensors()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=8,
)


@st.composite
def contents(draw):
    """A state dict that was right, after a few changes to it and around it."""
    weights = OrderedDict(WEIGHTS)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(
            st.sampled_from(["conv1.weight", "fc.weight", "fc.bias", "bn1.num_batches_tracked", "bn1.running_var"])
        )
        change = draw(st.sampled_from(["other", "gone", "value", "more"]))
        if change == "gone":
            weights.pop(name, None)
        else:
            weights[name if change != "more" else draw(KEYS)] = draw(
                VALUES if change == "value" else tensors(draw(st.sampled_from([None, WEIGHTS[name].shape])))
            )
    content = weights
    for _ in range(draw(st.integers(0, 3))):
        change = draw(st.sampled_from(["prefix", "nest", "beside", "value"]))
        if change == "prefix":
            prefix = draw(WORDS) + "." * draw(st.integers(0, 2))
            content = {prefix * draw(st.sampled_from([1, 1, 300])) + str(key): v for key, v in content.items()}
        elif change == "nest":
            content = {draw(KEYS): content}
        elif change == "beside":
            other = {key: v + 1 for key, v in WEIGHTS.items()}
            content = {draw(KEYS): content, draw(KEYS): other}
        else:
            content = {**content, draw(KEYS): draw(VALUES)}
    meta = dict(META)
    for key in draw(st.lists(st.sampled_from(["run", "top1", "dataset", "config", "network", "epoch"]), max_size=3)):
        meta[key] = draw(VALUES)
    if isinstance(meta["dataset"], dict) and draw(st.booleans()):
        meta["dataset"] = meta["dataset"] | {draw(KEYS): draw(VALUES)}
    return {**content, "meta": meta} if draw(st.booleans()) else content


def rezipped(data, change):
    """The archive `data` with its pickle changed, and the sums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            other.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return file.getvalue()


@st.composite
def changes(draw):
    """A function that damages bytes in a few places."""
    places = draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
    cut, doubled = draw(st.sampled_from([1, 1, 1, 0.999, 0.9, 0.5, 0.01])), draw(st.integers(0, 9)) == 0

    def change(data):
        data = bytearray(data)
        for place, byte in places:
            data[int(place * len(data))] = byte
        return bytes(data[: int(cut * len(data))]) * (1 + doubled)

    return change


@contextlib.contextmanager
def only_user_errors():
    try:
        yield
    except UserError as error:
        assert "\n" not in str(error)


OURS = {"run": "b", "top1": 10.0, "dataset": {"type": "folder", "classes": list("abcd"), "image_size": 32}}


@given(
    content=contents(), form=st.sampled_from(["zip", "zip", "legacy"]), how=st.sampled_from(["", "bytes", "pickle"]),
    change=changes(), classes=st.sampled_from([None, list("abcd"), list("bd"), list("abcdef")]),
)  # fmt: skip
@settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_any_file_loads_or_is_one_line(content, form, how, change, classes):
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, data, _use_new_zipfile_serialization=form == "zip")
    data = data.getvalue()
    if how == "pickle" and form == "zip":
        data = rezipped(data, change)
    elif how:
        data = change(data)
    network = NETWORK if classes is None else build_model("cifar100", "resnet8", len(classes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.pth")
        path.write_bytes(data)
        with only_user_errors():
            load_weights(network, path, "resnet8", classes)
            assert all(value.isfinite().all() for value in network.state_dict().values())
        with only_user_errors():
            file = weight_file(path, "cifar100")
            why_kept(file.meta, OURS)
            Evaluator(None, [], torch.device("cpu")).config_of(file)
