"""YAML files of strangers: read as they are meant, or refused in one line, at once."""

import os
import time

import pytest

from mdistiller.engine.cfg import TEXT_KEYS
from mdistiller.engine.values import MOST_FILES, parse_yaml, read_layers, read_yaml
from mdistiller.errors import UserError

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, "more than 20 aliases"),
        ("a: &a [*a]", "holds itself"),
        ("[" * 1000, "more than 20 levels deep"),
        ("- " * 10_000, "more than 20 levels deep"),
        ("{a: " * 1000, "more than 20 levels deep"),
        ("SOLVER: {LR: 1}\nSOLVER: {EPOCHS: 3}", "'SOLVER' stands twice"),
        ("SOLVER:\n  LR: 1\n  LR: 2\n", "'LR' stands twice"),
        ("SOLVER:\n\tLR: 1\n", "cannot start any token"),
        ("A: !!python/object/apply:os.getcwd []", "python/object/apply:os.getcwd"),
        ("A: !!python/name:os.getcwd", "python/name:os.getcwd"),
        ("A: !mine {B: 1}", "holds a !mine"),
        ("A: !!set {B}", "holds a set"),
        ("A: !!binary aGk=", "holds a bytes"),
        ("A: 2024-01-01", "holds a date, 2024-01-01; quote it"),
        ("A: 2024-13-45", "month must be in 1..12"),
        ("A: 010", "010 would be 8"),
        ("A: 1:30", "1:30 would be 90"),
        ("A: 1:30.5", "1:30.5 would be 90.5"),
        ("A: " + "9" * 400, "more than 300 digits"),
        ("A: 0x" + "f" * 5000, "more than 300 digits"),
        ("A: " + "9" * 5000, "is not valid YAML"),
        ("A: \0", "not allowed"),
        ('A: "\\0"', "zero character"),
        ("1: 2", "key 1; expected text"),
        ("on: 2", "key True; expected text"),
        ("? [a]\n: b", "expected text"),
        ("A: 1\n--- \nB: 2", "single document"),
        ("A: " + "x" * 70_000, "longer than the 32 KB"),
        (b"A: \xff\xfe", "not text in UTF-8"),
        ("A: 1".encode("utf-16"), "not text in UTF-8"),
        ("A: é".encode("latin-1"), "not text in UTF-8"),
    ],
)
def test_yaml_that_no_config_needs_is_one_line_at_once(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert time.process_time() - start < 0.5
    assert message in str(error.value) and "bad.yaml" in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_what_is_no_file_of_text_is_refused_without_reading_it(tmp_path, kind):
    path = tmp_path / "odd.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 10**12)
    for named in (path, tmp_path / "base.yaml"):
        (tmp_path / "base.yaml").write_text("_BASE_: odd.yaml")
        with pytest.raises(UserError, match=r"config .*odd\.yaml"):
            read_yaml(named)


def test_a_long_chain_of_bases_is_refused(tmp_path):
    for number in range(100):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {number + 1}.yaml")
    with pytest.raises(UserError, match=f"begins with {MOST_FILES} files or more"):
        read_yaml(tmp_path / "0.yaml")


def test_a_byte_order_mark_aliases_and_merge_keys_are_read(tmp_path):
    path = tmp_path / "good.yaml"
    text = "A: &a {X: 1, Y: [1, 2]}\nB: &b {<<: *a, X: 3}\nC: *a\nD: *b\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    values = {"X": 1, "Y": [1, 2]}
    assert read_yaml(path) == {"A": values, "B": values | {"X": 3}, "C": values, "D": values | {"X": 3}}


@pytest.mark.parametrize("text", ["010", "no", "1e3", "2024-01-01", "2024-13-45", "1:30", "0x10", "1_000", "4.50"])
def test_a_key_of_text_is_read_from_a_file_as_it_is_written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"EXPERIMENT: {{TAG: {text}}}\nDATASET: {{ROOT: '{text}', NUM_CLASSES: 7}}")
    ((_, values),) = read_layers(path, TEXT_KEYS)
    assert values == {"EXPERIMENT": {"TAG": text}, "DATASET": {"ROOT": text, "NUM_CLASSES": 7}}


@pytest.mark.parametrize("text", ["", "~", "null"])
def test_a_key_of_text_without_a_value_is_none(text):
    assert parse_yaml(f"EXPERIMENT:\n  TAG: {text}", "c", TEXT_KEYS) == {"EXPERIMENT": {"TAG": None}}
