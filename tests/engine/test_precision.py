"""Half precision and compilation: what they change, and what not."""

import copy
import platform
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.engine import precision
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.engine.failures import explain
from mdistiller.engine.optim import build_minimiser
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY

CPU = torch.device("cpu")
PAIR = "--selected_student resnet8 --selected_teacher resnet8".split()


def solver(**values):
    node = CFG.SOLVER.clone()
    node.update(values)
    return node


def batch_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, 32, 32, generator=generator)
    return image, torch.randint(10, (count,), generator=generator)


@pytest.fixture
def distiller():
    torch.manual_seed(0)
    student, teacher = (build_model("cifar100", "resnet8", 10) for _ in range(2))
    return build_distiller("KD", student, teacher, CFG.clone()).train()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def minimise(optimizer, losses):
    optimizer.backward(losses)
    optimizer.step()


class Counting:
    """Stands in for torch.compile: calls the network as it is, and keeps the shapes that it saw."""

    def __init__(self, monkeypatch):
        self.shapes, self.options = [], []
        monkeypatch.setattr(torch, "compile", self.compile)

    def compile(self, forward, **options):
        self.options.append(options)

        def compiled(x):
            self.shapes.append(tuple(x.shape))
            return forward(x)

        return compiled


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_networks_compute_in_the_precision_asked_for(distiller, amp, dtype):
    with precision.Precision(solver(AMP=amp), CPU):
        logits, _ = distiller.student(batch_of(2)[0])
    assert logits.dtype == dtype


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_losses_are_in_float32_and_near_those_of_float32(distiller, amp):
    image, target = batch_of(8)
    reference = copy.deepcopy(distiller)(image=image, target=target)[1]
    with precision.Precision(solver(AMP=amp), CPU):
        _, losses = distiller(image=image, target=target)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, reference[name], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_run_in_half_precision_keeps_weights_and_optimiser_in_float32(script, amp):
    assert script(training_main, "--selected_model", "resnet8", *TINY, "SOLVER.AMP", amp).status == 0, script.err
    (last,) = script.utils.glob("model_pth/*/last.pth")
    content = torch.load(last, weights_only=True)
    assert all(value.dtype != torch.float16 and value.dtype != torch.bfloat16 for value in content["model"].values())
    momenta = [state["momentum_buffer"] for state in content["training"]["optimizer"]["optimizer"]["state"].values()]
    assert all(momentum.dtype == torch.float32 for momentum in momenta)
    assert (content["training"]["optimizer"]["scaler"] is not None) == (amp == "fp16")


def test_a_scaled_step_is_the_step_without_scaling():
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        torch.manual_seed(0)
        network = nn.Linear(5, 3)
        minimise(
            build_minimiser(solver(), network.parameters(), scaler),
            {"loss_ce": network(torch.ones(2, 5)).square().sum()},
        )
        weights.append(network.weight.detach().clone())
    torch.testing.assert_close(*weights)


def test_a_step_whose_gradients_overflow_is_left_out():
    network = nn.Linear(5, 3)
    before = network.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = build_minimiser(solver(), network.parameters(), scaler)
    minimise(optimizer, {"loss_ce": network(torch.full((2, 5), float("inf"))).sum()})
    assert torch.equal(network.weight, before) and scaler.get_scale() == 512.0


def test_training_goes_on_after_a_first_step_that_overflows():
    def weights_after(*inputs):
        torch.manual_seed(0)
        network = nn.Linear(5, 3)
        optimizer = build_minimiser(solver(), network.parameters(), torch.amp.GradScaler("cpu", 1024.0))
        for value in inputs:
            minimise(optimizer, {"loss_ce": network(torch.full((2, 5), value)).square().sum()})
        return network.weight

    torch.testing.assert_close(weights_after(float("inf"), 1.0, 2.0), weights_after(1.0, 2.0))


def test_a_parameter_may_join_the_loss_later():
    early, late = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = build_minimiser(solver(MOMENTUM=0.0, WEIGHT_DECAY=0.0, LR=0.5), [early, late])
    minimise(optimizer, {"loss_ce": early.sum()})
    minimise(optimizer, {"loss_ce": (early + late).sum()})
    assert (early.item(), late.item()) == (0.0, 0.5)


def test_fp16_and_dot_do_not_combine(script):
    arguments = ["--selected_model", "resnet8", *TINY, "SOLVER.AMP", "fp16", "SOLVER.TRAINER", "dot"]
    script(training_main, *arguments).fails_with("fp16", "dot", "bf16")
    assert not list(script.utils.iterdir())


def test_an_unknown_precision_is_refused(script):
    script(training_main, *TINY, "SOLVER.AMP", "int8").fails_with("SOLVER.AMP is int8", "none, bf16, fp16")


@pytest.mark.parametrize(("device", "networks"), [("cpu", 1), ("cuda", 2)])
def test_full_batches_are_compiled_and_others_are_not(distiller, monkeypatch, device, networks):
    counting = Counting(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    precision.compile_networks(distiller, torch.device(device))
    for count in (4, 4, 3):
        image, target = batch_of(count)
        distiller(image=image, target=target)
    distiller.eval()
    distiller(image=batch_of(4)[0])
    assert counting.shapes == [(4, 3, 32, 32)] * 2 * networks


def test_a_teacher_that_the_method_may_change_is_not_frozen_into_constants(distiller, monkeypatch):
    counting = Counting(monkeypatch)
    distiller.teacher_is_constant = False
    precision.compile_networks(distiller, CPU)
    assert counting.options == []


def test_compilation_refuses_graph_breaks_and_changing_shapes(distiller, monkeypatch):
    counting = Counting(monkeypatch)
    precision.compile_networks(distiller, CPU)
    assert all(options["fullgraph"] and options["dynamic"] is False for options in counting.options)


def test_a_compiled_network_has_the_names_of_the_network(distiller, monkeypatch):
    names = list(distiller.state_dict())
    Counting(monkeypatch)
    precision.compile_networks(distiller, CPU)
    assert list(distiller.state_dict()) == names


def test_nothing_is_compiled_after_the_first_step(distiller):
    for network in (distiller.student, distiller.teacher):
        precision.compile_network(network, backend="eager")

    def epoch():
        for count in (4, 4, 3):
            image, target = batch_of(count)
            distiller.train()(image=image, target=target)
        distiller.student.eval()(image)

    epoch()
    with torch._dynamo.config.patch(error_on_recompile=True):
        epoch()


def test_compiled_training_equals_training(distiller):
    losses = []
    for compiles in (False, True):
        candidate = copy.deepcopy(distiller)
        optimizer = build_minimiser(solver(LR=0.01), candidate.get_learnable_parameters())
        if compiles:
            precision.compile_networks(candidate, CPU)
        for step in range(3):
            image, target = batch_of(4, seed=step)
            _, terms = candidate(image=image, target=target)
            minimise(optimizer, terms)
            losses.append(sum(terms.values()).item())
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-4)


def test_an_evaluation_before_training_leaves_the_compiled_case_to_training(distiller, monkeypatch):
    counting = Counting(monkeypatch)
    precision.compile_networks(distiller, torch.device("meta"))
    distiller.student.eval()(batch_of(5)[0])
    image, target = batch_of(4)
    distiller.train()(image=image, target=target)
    assert counting.shapes == [(4, 3, 32, 32)] * 2


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights(monkeypatch):
    counting = Counting(monkeypatch)
    network = nn.Linear(3, 2)
    precision.compile_network(network)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.weight.zero_(), copied.bias.fill_(7)
    assert (copied(torch.ones(1, 3)) == 7).all() and counting.shapes == []


def test_gpus_that_the_compiler_does_not_know_are_not_compiled_for(distiller, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P40")
    with pytest.raises(UserError, match=r"compute capability 7\.0 or more, which Tesla P40 has not"):
        precision.compile_networks(distiller, torch.device("cuda"))


def test_determinism_is_refused_where_it_changes_nothing(script):
    script(training_main, *TINY, "--device", "cpu", "SOLVER.DETERMINISTIC", "True").fails_with("no effect on a CPU")


def test_what_a_gpu_sums_in_no_order_is_named():
    error = RuntimeError("upsample_backward_cuda does not have a deterministic implementation, but you")
    assert "upsample_backward_cuda" in str(explain(error))


@pytest.mark.skipif(not precision.has_compiler(), reason="needs a C++ compiler")
def test_dot_trains_a_network_that_was_compiled_for_another_optimiser(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for trainer in ("base", "dot"):
        torch.compiler.reset()
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        precision.compile_network(network)
        optimizer = build_minimiser(solver(TRAINER=trainer), network.parameters())
        output = network(torch.ones(2, 3, 8, 8))
        minimise(optimizer, {"loss_ce": output.sum(), "loss_kd": output.square().sum()})


def test_a_failed_compilation_is_one_line(distiller, monkeypatch):
    def fail(*_):
        raise torch._dynamo.exc.TorchDynamoException("no Python.h\nmore")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fail)
    precision.compile_networks(distiller, CPU)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException) as error:
        distiller(image=batch_of(2)[0], target=batch_of(2)[1])
    assert re.search(r"no Python\.h\).*SOLVER.COMPILE False", str(explain(error.value)))


def test_without_a_compiler_compilation_is_refused_and_fast_leaves_it_out(script, monkeypatch):
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    script(training_main, *TINY, "SOLVER.COMPILE", "True").fails_with("SOLVER.COMPILE", "g++")
    assert precision.fastest_settings(CPU)["COMPILE"] is False


@pytest.mark.parametrize(("flags", "amp"), [({"avx2"}, "none"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")])
def test_fast_takes_the_precision_that_the_processor_has(monkeypatch, flags, amp):
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert precision.fastest_settings(CPU)["AMP"] == amp


def test_fast_sets_the_keys_and_pairs_override_them(script, monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    arguments = ["--selected_model", "resnet8", "--fast", *TINY, "SOLVER.COMPILE", "False"]
    assert script(training_main, *arguments).status == 0, script.err
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    saved = yaml.safe_load(saved.read_text())["SOLVER"]
    assert (saved["AMP"], saved["COMPILE"], saved["CHANNELS_LAST"]) == ("bf16", False, True)


def test_the_default_is_float32_and_not_compiled():
    assert (CFG.SOLVER.AMP, CFG.SOLVER.COMPILE, CFG.SOLVER.CHANNELS_LAST) == ("none", False, True)


def test_either_layout_trains_the_same(script):
    losses = []
    for channels_last in ("True", "False"):
        arguments = ["--selected_model", "resnet8", *TINY, "SOLVER.EPOCHS", "1", "SOLVER.CHANNELS_LAST", channels_last]
        assert script(training_main, *arguments).status == 0, script.err
        losses.append(float(re.search(r"Train Loss: ([\d.]+)", script.out)[1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_distillation_in_bf16_finishes(script, tmp_path):
    torch.manual_seed(0)
    torch.save(build_model("cifar100", "resnet8", 36).state_dict(), tmp_path / "teacher.pth")
    run = script(distillation_main, *PAIR, "--teacher_weights", tmp_path / "teacher.pth", *TINY, "SOLVER.AMP", "bf16")
    assert run.status == 0, run.err
    assert "Learning Time" in run.out


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_c_library_agrees_to_keep_memory(monkeypatch):
    answers, library = [], precision.c_library()
    listening = SimpleNamespace(mallopt=lambda *request: answers.append(library.mallopt(*request)))
    monkeypatch.setattr(precision, "c_library", lambda: listening)
    precision.keep_freed_memory()
    assert answers == [1, 1]


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    def none_is_loaded():
        raise TypeError("expected a file")  # as on Windows

    for library in (none_is_loaded, object):
        monkeypatch.setattr(precision, "c_library", library)
        assert precision.keep_freed_memory() is None
