"""Several processes reach what one reaches, by every method."""

import re
from pathlib import Path

import pytest
import torch

from mdistiller.dataset import Loader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, find_method
from mdistiller.engine.cfg import config_for
from mdistiller.engine.distributed import Processes
from mdistiller.engine.launch import Launch, select_device
from mdistiller.engine.run import assemble
from mdistiller.errors import UserError
from mdistiller.models import build_model
from mdistiller.models.folding import FoldedBatchNorm
from mdistiller.share import Share
from tests.engine.processes import launcher, relational, steps

CASES = [
    *(name for name in DISTILLERS if name != "SEMCKD"),
    "SEMCKD SEMCKD.LOSS.FEAT_WEIGHT=1.0",  # with the release's weight these untrained networks diverge
    "FT FT.INITIAL.EPOCHS=0",  # by itself it begins with its initial stage
    "SSKD SSKD.INITIAL.EPOCHS=0",
    f"{relational.__file__}:Relational",
    f"{relational.__file__}:Local",
    f"{relational.__file__}:Views",
    "SKD SKD.FORM=paper",
    "KD SOLVER.TRAINER=dot",
    "SKD SOLVER.TRAINER=dot",
    "KD DATASET.AUGMENT=strong",
    "KD SOLVER.CLIP_GRAD=0.1",
    "MLKD MLKD.VIEWS=2 DATASET.AUGMENT=two-view",
    "CRD CRD.MODE=relax",
    "KD SOLVER.ACCUMULATE=2",
    "SKD SOLVER.TRAINER=dot SOLVER.ACCUMULATE=2",
    "KD DATASET.RANDAUGMENT=9 DATASET.ERASING=0.5 DATASET.MIXUP=0.4 DATASET.CUTMIX=1.0 SOLVER.LABEL_SMOOTHING=0.1",
    "SKD SOLVER.TYPE=AdamW SOLVER.LR=0.001 DATASET.MIXUP=0.4",
]
# Of which a third process may tell more than a second: losses that relate images, settings.
RELATED = [case for case in CASES if case not in DISTILLERS or DISTILLERS[case].relates_images]


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """What `size` processes reach by each case, {case: …}."""
    folder, known = tmp_path_factory.mktemp("processes"), {}

    def of(size, dtype="float64"):
        if (size, dtype) not in known:
            path = folder / f"{size}-{dtype}.pt"
            launcher.run(size, steps.__file__, path, dtype, *(RELATED if size == 3 else CASES))
            known[size, dtype] = torch.load(path)
        return known[size, dtype]

    return of


def assert_close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=False)


@pytest.mark.parametrize(
    ("case", "size"),
    [*((case, 2) for case in CASES), *((case, 3) for case in RELATED)],
    ids=lambda value: str(value).rpartition("/")[2],
)
def test_losses_gradients_and_weights_are_those_of_one_process(reached, case, size):
    tolerance = 1e-9
    found, expected = reached(size)[case], reached(1)[case]
    assert_close(found["result"], expected["result"], tolerance)
    assert_close(found["terms"], expected["terms"], tolerance)
    assert_close(found["norms"], expected["norms"], tolerance)
    assert_close(found["state"], expected["state"], tolerance)


def test_the_page_lists_the_methods_that_relate_images():
    page = (Path(__file__).parents[2] / "docs/processes.md").read_text()
    relate, rest = (re.search(rf"\| {title} \| (.*) \|", page)[1] for title in ("relate images", "means over images"))
    named = [sorted(re.findall(r"\w+", re.sub(r"\(.*?\)", "", names))) for names in (relate, rest)]
    methods = [method for name, method in DISTILLERS.items() if name != PLAIN_TRAINING]
    assert named[0] == sorted(method.__name__ for method in methods if method.relates_images)
    assert named[1] == sorted(method.__name__ for method in methods if not method.relates_images)


def launched(monkeypatch, **variables):
    known = {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 29500}
    for name, value in {**known, "MASTER_ADDR": "localhost", **variables}.items():
        monkeypatch.setenv(name, str(value)) if value is not None else monkeypatch.delenv(name, raising=False)


def test_a_process_knows_which_one_it_is(monkeypatch):
    launched(monkeypatch)
    launch = Launch()
    assert (launch.share.rank, launch.share.size, launch.share.on_machine, launch.number_on_machine) == (1, 4, 2, 1)


@pytest.mark.parametrize(("name", "value"), [("RANK", None), ("MASTER_ADDR", None), ("LOCAL_RANK", "x")])
def test_half_an_environment_of_torchrun_is_refused(monkeypatch, name, value):
    launched(monkeypatch, **{name: value})
    with pytest.raises(UserError, match=r"WORLD_SIZE is '4', and .* is not as torchrun sets it"):
        Launch()


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    launched(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes were started here and there are 1 GPUs"):
        select_device("cuda")
    with pytest.raises(UserError, match="--device cuda:1 is one GPU for 4 processes; type --device cuda"):
        select_device("cuda:1")


@pytest.mark.parametrize(
    ("name", "message"), [("Named", "leave relates_images = False out"), ("Inner", "start it by python, not torchrun")]
)
def test_a_file_that_needs_one_process_says_so_in_each(tmp_path, name, message):
    processes = launcher.start(2, steps.__file__, tmp_path / "none.pt", "float64", f"{relational.__file__}:{name}")
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert any(message in error for error in errors), errors


def test_a_part_without_a_gradient_joins_those_with_one(tmp_path):
    path = tmp_path / "hard.pt"
    launcher.run(2, steps.__file__, path, "float64", f"{relational.__file__}:Hard")
    (found,) = torch.load(path).values()
    assert all(torch.as_tensor(norm).isfinite() for norm in found["norms"])


@pytest.mark.parametrize(
    "numbers",
    [{"WORLD_SIZE": 0}, {"RANK": 5}, {"LOCAL_RANK": 3}, {"LOCAL_WORLD_SIZE": 0}, {"MASTER_PORT": 99999}],
    ids=str,
)
def test_numbers_that_no_launch_has_are_refused(monkeypatch, numbers):
    launched(monkeypatch, **numbers)
    with pytest.raises(UserError, match="is not as torchrun sets it"):
        Launch()


def test_synchronised_norms_leave_a_folded_teacher_as_it_is():
    class Two(Processes):
        share = Share(0, 2)

    cfg = config_for(find_method("KD"))
    cfg.DISTILLER.TYPE, cfg.SOLVER.SYNC_BN = "KD", True
    student, teacher = (build_model("cifar100", name, 36) for name in ("resnet8", "resnet14"))
    loader = Loader(draw_synthetic(36, 0, "train"), 12, *steps.STATISTICS)
    distiller = assemble(cfg, student, teacher, loader, Two())
    kinds = [{type(m) for m in part.modules() if "Norm" in type(m).__name__} for part in (student, distiller.teacher)]
    assert kinds == [{torch.nn.SyncBatchNorm}, {FoldedBatchNorm}]
