"""The config: MDistiller's files, overrides, and what is refused."""

import math

import pytest
from yacs.config import CfgNode as CN

from mdistiller.checks import WEIGHT
from mdistiller.distillers import DISTILLERS, Vanilla
from mdistiller.engine.bounds import CHECKS, check
from mdistiller.engine.cfg import (
    CFG,
    SHARED_SECTIONS,
    changed,
    leaves,
    merge,
    merge_pairs,
    used_sections,
)
from mdistiller.engine.values import dump, read_yaml
from mdistiller.errors import UserError

MDISTILLER_YAML = """
EXPERIMENT:
  NAME: ""
  TAG: "reviewkd,res56,res20"
  PROJECT: "cifar100_baselines"
DISTILLER:
  TYPE: "REVIEWKD"
  TEACHER: "resnet56"
  STUDENT: "resnet20"
REVIEWKD:
  REVIEWKD_WEIGHT: 0.6
  SHAPES: [1, 8, 16, 32]
  IN_CHANNELS: [16, 16, 32, 64]
FITNET:
  INPUT_SIZE: (64, 64)
KD:
  TEMPERATURE: 4.5
SOLVER:
  BATCH_SIZE: 64
  EPOCHS: 240
  LR: 5e-2
  LR_DECAY_STAGES: [150, 180, 210]
  WEIGHT_DECAY: 5e-4
  TRAINER: "base"
LOG:
  WANDB: False
"""


@pytest.fixture
def cfg():
    return CFG.clone()


def test_mdistiller_yaml_loads(tmp_path, cfg):
    path = tmp_path / "mdistiller.yaml"
    path.write_text(MDISTILLER_YAML)
    merge(cfg, read_yaml(path), "file")
    assert (cfg.SOLVER.LR, cfg.SOLVER.WEIGHT_DECAY) == (0.05, 5e-4)
    assert cfg.FITNET.INPUT_SIZE == (64, 64)
    assert cfg.KD.TEMPERATURE == 4.5
    assert cfg.REVIEWKD.IN_CHANNELS == [16, 16, 32, 64] and cfg.LOG.WANDB is False
    assert cfg.DATASET.AUGMENT == "weak"  # as MDistiller trains


def test_pairs_take_yaml_values(cfg):
    merge_pairs(cfg, ["SOLVER.LR_DECAY_STAGES", "[36,43,50]", "SOLVER.WEIGHT_DECAY", "4e-5", "DATASET.ROOT", "my/data"])
    assert cfg.SOLVER.LR_DECAY_STAGES == [36, 43, 50]
    assert cfg.SOLVER.WEIGHT_DECAY == 4e-5
    assert cfg.DATASET.ROOT == "my/data"


def test_whole_number_fits_a_float_key_and_a_folder_may_be_a_number(cfg):
    merge_pairs(cfg, ["SOLVER.LR", "1", "DATASET.ROOT", "2024"])
    assert isinstance(cfg.SOLVER.LR, float) and cfg.DATASET.ROOT == "2024"


def test_merging_leaves_the_defaults_untouched(cfg):
    merge_pairs(cfg, ["SOLVER.EPOCHS", "3"])
    assert CFG.SOLVER.EPOCHS == 240


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["SOLVER.EPOCH", "3"], r"unknown config key 'SOLVER.EPOCH'.*nearest: 'SOLVER.EPOCHS'"),
        (["SOLVR.LR", "3"], r"unknown config key 'SOLVR' .*nearest: 'SOLVER'"),
        (["SOLVER.EPOCHS"], r"'SOLVER.EPOCHS' has no value"),
        (["SOLVER.EPOCHS", "many"], r"SOLVER.EPOCHS .* is 'many'; expected int, such as 240"),
        (["SOLVER.LR", "[0.1]"], r"SOLVER.LR .* is \[0.1\]; expected float"),
        (["SOLVER.LR", "true"], r"SOLVER.LR .* is True; expected float"),
        (["SOLVER.LR_DECAY_STAGES", "150"], r"expected list"),
        (["SOLVER.LR_DECAY_STAGES", "[150"], r"quote lists.* is not valid YAML"),
        (["SOLVER", "3"], r"SOLVER .* is a section"),
        (["SOLVER.EPOCHS", "2024-13-45"], r"SOLVER.EPOCHS .* is not valid YAML"),
        (["SOLVER.EPOCHS", "2024-01-01"], r"SOLVER.EPOCHS .* holds a date.*quote it"),
        (["SOLVER.LR", "[" * 5000], r"is not valid YAML"),
        (["SOLVER.LR", "9" * 5000], r"SOLVER.LR .* is not valid YAML"),
        (["SOLVER.EPOCHS", "010"], r"SOLVER.EPOCHS .* 010 would be 8; write a decimal number"),
        (["SOLVER.EPOCHS", "1:30"], r"1:30 would be 90"),
        (["SOLVER.EPOCHS=3", "SOLVER.LR=1"], r"'SOLVER.EPOCHS=3' is no key.*without ="),
        (["SOLVER.EPOCHS=3"], r"'SOLVER.EPOCHS=3' has no value"),
        (["", "1"], r"unknown config key ''"),
        (["x" * 100_000, "1"], r"unknown config key 'xx"),
        (["SOLVER.LR", ""], r"SOLVER.LR .* is None; expected float"),
        (["LOG.WANDB", "1"], r"LOG.WANDB .* is 1; expected bool"),
        (["SOLVER.LR.X", "3"], r"SOLVER.LR"),
    ],
)
def test_bad_pair_is_refused_in_one_line(cfg, pairs, message):
    with pytest.raises(UserError, match=message) as error:
        merge_pairs(cfg, pairs)
    assert "\n" not in str(error.value)


def test_own_distiller_may_bring_a_section_but_not_misspell_a_known_one(cfg):
    merge_pairs(cfg, ["MINE.WEIGHT", "2.5", "MINE.LOSS.ALPHA", "1"], allow_new_sections=True)
    assert cfg.MINE.WEIGHT == 2.5 and cfg.MINE.LOSS.ALPHA == 1
    with pytest.raises(UserError, match=r"nearest: 'KD\.TEMPERATURE'"):
        merge_pairs(cfg, ["KD.TEMPERATUR", "2"], allow_new_sections=True)


def test_dumped_config_loads_to_the_same(tmp_path, cfg):
    merge_pairs(cfg, ["SOLVER.EPOCHS", "3", "DATASET.MEAN", "[0.5,0.5,0.5]", "MINE.A", "1"], allow_new_sections=True)
    path = tmp_path / "config.yaml"
    text = dump(cfg)
    assert "&id" not in text
    path.write_text(text)
    again = CFG.clone()
    merge(again, read_yaml(path), "file", allow_new_sections=True)
    assert again == cfg


@pytest.mark.parametrize("content", ["SOLVER: [", "- a\n- b\n", "just text"])
def test_file_that_is_no_config_is_refused(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_yaml(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read config .*absent\.yaml: No such file"):
        read_yaml(tmp_path / "absent.yaml")


# (key, values that no run can use)
REFUSED = {
    "EXPERIMENT.SEED": ["-1", "9223372036854775808", "1.5"],
    "EXPERIMENT.TAG": ["a\0b", "a\udcffb", "x" * 5000],
    "DATASET.ROOT": ["a\0b"],
    "DATASET.IMAGE_SIZE": ["2", "-1", "100000"],
    "DATASET.MEAN": ["[1,0]", "[123.7,116.3,103.5]", "[.nan,0,0]", "[true,0,0]"],
    "DATASET.STD": ["[1,0,1]", "[58.4,57.1,57.4]"],
    "DATASET.NUM_WORKERS": ["-1", "1e9"],
    "DATASET.SYNTHETIC.SEED": ["-1"],
    "DATASET.RANDAUGMENT": ["-1", "31", "1.5"],
    "DATASET.ERASING": ["-0.1", "1.1", ".nan"],
    "DATASET.MIXUP": ["-0.1", "1e-9", "1e9", ".nan"],
    "DATASET.CUTMIX": ["-0.1", "0.001", ".inf"],
    "DISTILLER.FREEZE": ["[[a]]", "[null]", "['']"],
    "SOLVER.ACCUMULATE": ["0", "1.5", "1e9"],
    "SOLVER.EMA": ["-0.1", "1", ".nan"],
    "SOLVER.LABEL_SMOOTHING": ["-0.1", "1", ".nan"],
    "SOLVER.SCHEDULER": ["cos"],
    "SOLVER.WARMUP_EPOCHS": ["-1", "1.5", "1e300"],
    "DATASET.SYNTHETIC.TEST_IMAGES": ["0", "1e13"],
    "DATASET.TEST.BATCH_SIZE": ["0", "18446744073709551616"],
    "SOLVER.BATCH_SIZE": ["-1", "18446744073709551616", "9" * 300, "0.5"],
    "SOLVER.CLIP_GRAD": ["-1", ".inf"],
    "SOLVER.DOT.DELTA": ["5", "-0.1", ".nan"],
    "SOLVER.EPOCHS": ["0", "1.5", "1e300", ".nan"],
    "SOLVER.LR": ["0", ".nan", "-0.1", "1e300"],
    "SOLVER.LR_DECAY_RATE": [".nan", "3", "0", "1e300"],
    "SOLVER.LR_DECAY_STAGES": ["[a]", "[300,5,5]", "[1,1]", "[0]", "[1.5]", "[true]", "[1e300]", str([*range(1, 102)])],
    "SOLVER.MOMENTUM": ["-1", "1"],
    "SOLVER.TRAINER": ["crd2"],
    "SOLVER.TYPE": ["Adam"],
    "SOLVER.WEIGHT_DECAY": ["-1", "1e300"],
    "AT.P": ["0", "300"],
    "CRD.FEAT.DIM": ["0", "1000000000"],
    "CRD.NCE.K": ["0", "1000000000000"],
    "CRD.NCE.TEMPERATURE": ["0.001", "0"],
    "CTKD.T_RANGE": [".inf"],
    "DIST.T": ["1e300", "0"],
    "DKD.ALPHA": ["-1"],
    "DKD.T": ["1e300"],
    "DKD.WARMUP": [".nan", ".inf", "-1"],
    "FITNET.HINT_LAYER": ["-1"],
    "FITNET.INPUT_SIZE": ["[32]", "[100000,100000]"],
    "KD.LOSS.KD_WEIGHT": ["-0.9", "1e300", ".nan"],
    "KD.TEMPERATURE": ["1e300", "0", "-4"],
    "KDSVD.K": ["1.5", "0", "1e9"],
    "MLKD.TEMPERATURES": ["[]", "[1e300]", "[4,0]"],
    "MLKD.VIEWS": ["3"],
    "OFD.CONNECTOR.KERNEL_SIZE": ["2", "9223372036854775807"],
    "REVIEWKD.WARMUP_EPOCHS": [".inf"],
    "RKD.PDIST.EPSILON": ["0", "1e-300"],
    "SDD.SCALES": ["[1,2.5]", "[2,1]", "[]", "[1,100]"],
    "SDD.T": ["1e300"],
    "SKD.TIKHONOV": ["0"],
    "VID.EPS": ["16", "0"],
    "VID.INIT_PRED_VAR": ["0", "100000"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_value_that_no_run_can_use_is_named_with_what_can(cfg, key, value):
    merge_pairs(cfg, [key, value])
    with pytest.raises(UserError, match=rf"^{key} is .*; expected ") as error:
        check(cfg, Vanilla)
    assert len(str(error.value)) < 300


CHECKED = {**CHECKS, **{f"{m.section()}.{key}": check for m in DISTILLERS.values() for key, check in m.checks.items()}}


@pytest.mark.parametrize(("key", "default"), leaves(CFG).items())
def test_every_key_has_a_check_that_bounds_it(key, default):
    if isinstance(default, bool):
        return
    assert CHECKED[key].is_good(default)
    extremes = [10**300, -(10**300), 1e300, -1e300, math.nan, math.inf, -math.inf, True]
    if isinstance(default, str):
        assert not CHECKED[key].is_good("a\0b") and not CHECKED[key].is_good("x" * 10**6)
    elif isinstance(default, (list, tuple)):
        item = default[0] if default else 0.5
        assert not any(CHECKED[key].is_good([*(default or 3 * [item])[:-1], extreme]) for extreme in extremes)
        assert not CHECKED[key].is_good([*range(1, 1000)])
    else:
        assert not any(map(CHECKED[key].is_good, extremes[:-1]))


@pytest.mark.parametrize("method", DISTILLERS.values())
def test_every_loss_weight_is_a_number_from_0_to_a_million(method):
    weights = [key for key in leaves(CFG) if key.split(".")[0] == method.section() and key.endswith("_WEIGHT")]
    assert all(CHECKED[key] is WEIGHT for key in weights)


def test_a_whole_number_may_be_written_as_a_float(cfg):
    merge_pairs(cfg, ["SOLVER.EPOCHS", "1e3", "SOLVER.BATCH_SIZE", "32.0"])
    check(cfg, Vanilla)
    assert repr((cfg.SOLVER.EPOCHS, cfg.SOLVER.BATCH_SIZE)) == "(1000, 32)"


@pytest.mark.parametrize(
    "text", ["set #1", "a: b", "010", "no", "1e3", "null", "~", "[x]", "", "'q'", " x ", "*a", "2024-01-01"]
)
def test_a_key_of_text_takes_the_command_line_as_typed(cfg, text):
    merge_pairs(cfg, ["DATASET.ROOT", text, "EXPERIMENT.TAG", text])
    assert cfg.DATASET.ROOT == cfg.EXPERIMENT.TAG == text


def test_a_key_of_text_of_a_user_s_own_method_takes_the_command_line_as_typed(cfg):
    cfg.MINE = CN({"MODE": "exact", "WEIGHT": 1.0})
    merge_pairs(cfg, ["MINE.MODE", "010", "MINE.WEIGHT", "1e1"])
    assert (cfg.MINE.MODE, cfg.MINE.WEIGHT) == ("010", 10.0)


def test_of_a_key_that_is_given_twice_the_last_counts(cfg):
    merge_pairs(cfg, ["SOLVER.EPOCHS", "2", "SOLVER.EPOCHS", "3"])
    assert cfg.SOLVER.EPOCHS == 3


@pytest.mark.parametrize(("momentum", "delta"), [("0.9", "0.1"), ("0.9", "0.5"), ("0.05", "0.075"), ("0", "0.1")])
def test_dot_s_momenta_stay_from_0_to_below_1(cfg, momentum, delta):
    merge_pairs(cfg, ["SOLVER.TRAINER", "dot", "SOLVER.MOMENTUM", momentum, "SOLVER.DOT.DELTA", delta])
    with pytest.raises(UserError, match=rf"SOLVER.DOT.DELTA is {delta}; expected 0 or .* SOLVER.MOMENTUM {momentum}"):
        check(cfg, Vanilla)


def test_fewer_epochs_than_stages_are_no_error(cfg):
    merge_pairs(cfg, ["SOLVER.EPOCHS", "2"])
    check(cfg, Vanilla)


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_may_begin_with_others(tmp_path):
    (tmp_path / "deeper").mkdir()
    write(tmp_path, recipe="SOLVER: {LR: 0.1, EPOCHS: 240, LR_DECAY_STAGES: [150, 180]}", method="_BASE_: recipe.yaml")
    write(
        tmp_path / "deeper",
        pair="_BASE_: ../method.yaml\nSOLVER: {LR: 0.2, LR_DECAY_STAGES: [7]}\nKD: {TEMPERATURE: 2}",
    )
    assert read_yaml(tmp_path / "deeper/pair.yaml") == {
        "SOLVER": {"LR": 0.2, "EPOCHS": 240, "LR_DECAY_STAGES": [7]},
        "KD": {"TEMPERATURE": 2},
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "_BASE_: a.yaml"}, r"_BASE_ runs in a circle: .*a\.yaml -> .*a\.yaml"),
        ({"a": "_BASE_: b.yaml", "b": "_BASE_: ./a.yaml"}, r"_BASE_ runs in a circle: .*a\.yaml -> .*b\.yaml"),
        ({"a": "_BASE_: absent.yaml"}, r"cannot read config .*absent\.yaml"),
        ({"a": "_BASE_: [b.yaml, c.yaml]"}, r"_BASE_ in config .*a\.yaml is .*; expected the path of one YAML file"),
        ({"a": "_BASE_: b.yaml", "b": "- no mapping"}, r"b\.yaml holds a list"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_a_section_of_each_method_with_settings_holds_its_defaults():
    for method in DISTILLERS.values():
        assert CFG.get(method.section(), {}) == method.defaults


def test_a_changed_config_is_another_and_frozen(cfg):
    other = changed(cfg, "SOLVER.DOT.DELTA", 0.5)
    assert (cfg.SOLVER.DOT.DELTA, other.SOLVER.DOT.DELTA) == (0.075, 0.5)
    with pytest.raises(AttributeError):
        other.SOLVER.LR = 1.0


def test_the_sections_of_a_run_are_the_shared_ones_and_its_methods_own(cfg):
    assert set(used_sections(cfg, DISTILLERS["KD"])) == {*SHARED_SECTIONS, "KD"}
    assert set(used_sections(cfg, DISTILLERS["NONE"])) == set(SHARED_SECTIONS)
