"""The config: MDistiller's files, overrides, and what is refused."""

import pytest

from mdistiller.distillers import DISTILLERS, Vanilla
from mdistiller.engine.cfg import CFG, SHARED_SECTIONS, changed, check, merge, merge_pairs, used_sections
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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.EPOCHS", "0"),
        ("SOLVER.EPOCHS", "1.5"),
        ("SOLVER.BATCH_SIZE", "-1"),
        ("SOLVER.LR", "0"),
        ("SOLVER.LR", ".nan"),
        ("SOLVER.LR_DECAY_STAGES", "[a]"),
        ("SOLVER.TYPE", "Adam"),
        ("SOLVER.TRAINER", "crd2"),
        ("EXPERIMENT.SEED", "-1"),
        ("DATASET.STD", "[1,0,1]"),
        ("DATASET.MEAN", "[1,0]"),
        ("SOLVER.MOMENTUM", "-1"),
        ("SOLVER.WEIGHT_DECAY", "-1"),
        ("SOLVER.LR_DECAY_RATE", ".nan"),
        ("SKD.TIKHONOV", "0"),
        ("SDD.SCALES", "[1,2.5]"),
        ("OFD.CONNECTOR.KERNEL_SIZE", "2"),
        ("KDSVD.K", "1.5"),
        ("MLKD.TEMPERATURES", "[]"),
        ("MLKD.VIEWS", "3"),
        ("FITNET.INPUT_SIZE", "[32]"),
        ("VID.INIT_PRED_VAR", "0"),
        ("CRD.FEAT.DIM", "0"),
        ("DATASET.IMAGE_SIZE", "2"),
        ("DATASET.SYNTHETIC.SEED", "-1"),
    ],
)
def test_value_that_no_run_can_use_is_named(cfg, key, value):
    merge_pairs(cfg, [key, value])
    with pytest.raises(UserError, match=key):
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
