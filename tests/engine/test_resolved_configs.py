"""What the scripts' flags resolve to: the frozen settings of every method on both benchmarks and of every preset."""

import json
from pathlib import Path

import pytest
import torch

from mdistiller.engine.index import BENCHMARKS
from mdistiller.engine.resolve import Choices, baseline_config, distillation_config
from mdistiller.engine.runs import PROJECT

FROZEN = json.loads(Path(__file__).with_name("resolved_configs.json").read_text())
RUNS = [(benchmark, flags) for benchmark, frozen in FROZEN.items() for flags in frozen["differences"]]


def flat(node, prefix=""):
    """Values of nested sections by their dotted keys, as JSON has them."""
    values = {}
    for key, value in node.items():
        is_section = isinstance(value, dict)
        values |= flat(value, f"{prefix}{key}.") if is_section else {prefix + key: json.loads(json.dumps(value))}
    return values


@pytest.mark.parametrize("benchmark", FROZEN)
def test_every_preset_is_frozen(benchmark):
    frozen = {flags.split()[-1] for flags in FROZEN[benchmark]["differences"] if "--cfg" in flags}
    assert frozen == {path.name for path in (PROJECT / "configs" / benchmark).glob("*.yaml")} - {"Vanilla.yaml"}


@pytest.mark.parametrize(("benchmark", "flags"), RUNS, ids=[" ".join(run) for run in RUNS])
def test_flags_resolve_to_the_frozen_settings(benchmark, flags):
    frozen, words = FROZEN[benchmark], flags.split()
    expected = frozen["plain training"] | frozen["differences"][flags]
    if "timm:" in expected["DISTILLER.STUDENT"]:
        pytest.importorskip("timm")
    given = {word[2:]: words[i + 1] for i, word in enumerate(words) if word.startswith("--")}
    if "cfg" in given:
        given["cfg"] = PROJECT / "configs" / benchmark / given["cfg"]
    pairs = [word for i, word in enumerate(words) if word.isupper() or words[i - 1].isupper()]
    resolve = baseline_config if "selected_model" in given else distillation_config
    actual = flat(resolve(BENCHMARKS[benchmark], Choices(**given, pairs=pairs), torch.device("cpu")))
    actual["DATASET.ROOT"] = str(Path(actual["DATASET.ROOT"]).relative_to(Path.cwd()))
    assert {key: actual[key] for key in expected} == expected
