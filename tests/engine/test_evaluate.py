"""`test.py`: which files are its rows, what they say, and how they fit a terminal and a CSV file."""

import csv
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios

import pytest
import torch
import yaml
from PIL import Image

from mdistiller.dataset import build_data, fill_defaults
from mdistiller.engine import evaluate as evaluation
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import evaluation_main, training_main
from mdistiller.engine.metrics import evaluate
from mdistiller.engine.runs import PROJECT
from mdistiller.engine.students import weight_file
from mdistiller.engine.tables import WIDTH, align, columns_of, printable, shorten, shorten_path
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY

HEADER = "dataset teacher student method seed epoch top-1 top-5 loss images file".split()
OF_CSV = "chosen_by ece agreement kl compared_with image_size views precision networks".split()
DISTILLED, PLAIN = "model_distillation_pth", "model_pth"


@pytest.fixture(scope="module")
def synthetic():
    """Synthetic test images, 40 of them."""
    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DATASET.SYNTHETIC.TEST_IMAGES = "synthetic", 40
    fill_defaults(cfg.DATASET)
    return build_data(cfg, torch.device("cpu"), 0, splits=("test",))


@pytest.fixture
def save(script, synthetic):
    """Writes the weights of a run that never was, as a run writes them, and returns their path."""

    def write(name="best.pth", run="2026-01-01-00-00-00_resnet14_resnet8_KD", folder=DISTILLED, seed=3, **meta):
        dataset = {"type": "synthetic", "classes": synthetic.classes, **meta.pop("dataset", {})}
        config = {"DATASET": {"TYPE": dataset["type"], "SYNTHETIC": {"TEST_IMAGES": 40}}, "EXPERIMENT": {"SEED": seed}}
        meta = {"run": run, "network": "resnet8", "teacher": "resnet14", "distiller": "KD", "epoch": 7} | meta
        meta |= {"models": "cifar100", "dataset": dataset, "config": meta.get("config", yaml.safe_dump(config))}
        torch.manual_seed(seed)
        path = script.utils / folder / (f"{run}/{name}" if name == "best.pth" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"model": build_model("cifar100", "resnet8", len(dataset["classes"])).state_dict(), "meta": meta}, path
        )
        return path

    return write


def folder_of_images(root, classes=("cat", "dog")):
    for number, name in enumerate(classes):
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
            for copy in range(2):
                Image.new("RGB", (32, 32), (90 * number, 60 * copy, 9)).save(root / split / name / f"{copy}.png")
    return root


def rows_of(text):
    """The cells of each row of the table of files, the file at the end."""
    header, *lines = text.split("\n\n")[0].splitlines()
    assert header.split() == HEADER and all(columns_of(line) <= WIDTH for line in [header, *lines])
    if all(not line.startswith("  ") for line in lines):
        return [line.split() for line in lines]
    assert [line.startswith("  ") for line in lines] == len(lines) // 2 * [False, True]
    return [[*row.split(), file.strip()] for row, file in zip(lines[::2], lines[1::2], strict=True)]


def test_a_row_tells_the_run_and_what_it_reaches(script, save, synthetic, monkeypatch):
    path = save()
    monkeypatch.chdir(script.utils.parents[1])
    (row,) = rows_of(script(evaluation_main).out)
    network = build_model("cifar100", "resnet8", len(synthetic.classes))
    network.load_state_dict(torch.load(path, weights_only=True)["model"])
    expected = evaluate(network.to(memory_format=torch.channels_last), synthetic.test)
    numbers = f"{expected.top1:.2f}", f"{expected.top5:.2f}", f"{expected.loss:.4f}", "40"
    file = str(path.relative_to(script.utils.parents[1]))
    assert row == ["synthetic", "resnet14", "resnet8", "KD", "3", "7", *numbers, file]


def test_the_published_copy_of_a_run_is_no_second_row(script, save):
    path = save()
    shutil.copy(path, path.parents[1] / "best_model_weights_resnet8_KD.pth")
    (row,) = rows_of(script(evaluation_main).out)
    assert row[-1].endswith(f"{path.parent.name}/best.pth")
    shutil.rmtree(path.parent)
    (row,) = rows_of(script(evaluation_main).out)
    assert row[-1].endswith("best_model_weights_resnet8_KD.pth")


def test_a_published_file_of_another_run_is_a_row(script, save):
    save()
    save("best_model_weights_resnet8_KD.pth", run="2025-01-01-00-00-00_resnet14_resnet8_KD")
    assert len(rows_of(script(evaluation_main).out)) == 2


def test_what_a_file_does_not_tell_is_a_hyphen(script, save):
    path = save("best_model_weights_resnet8.pth", run="x", teacher=None, distiller=None, epoch=None, config="")
    (row,) = rows_of(script(evaluation_main, "--checkpoint", path, "DATASET.SYNTHETIC.TEST_IMAGES", 40).out)
    assert row[:6] == ["synthetic", "-", "resnet8", "-", "-", "-"]


def test_rows_are_sorted_by_data_and_pair_then_the_best_first(script, save, tmp_path):
    root = folder_of_images(tmp_path / "pets")
    config = yaml.safe_dump({"DATASET": {"TYPE": "folder", "ROOT": str(root)}})
    save(run="z", dataset={"type": "folder", "classes": ["cat", "dog"]}, config=config)
    for number, teacher in enumerate(["resnet56", "resnet14", "resnet14", "resnet14"]):
        save(run=f"run{number}", seed=number, teacher=teacher)
    rows = rows_of(script(evaluation_main, "DATASET.ROOT", root).out)
    assert [row[:2] for row in rows] == [
        ["folder", "resnet14"],
        *3 * [["synthetic", "resnet14"]],
        ["synthetic", "resnet56"],
    ]
    accuracies = [float(row[6]) for row in rows[1:4]]
    assert accuracies == sorted(accuracies, reverse=True)


def test_dataset_shows_exactly_the_students_on_such_data(script, save, tmp_path):
    root = folder_of_images(tmp_path / "pets")
    config = yaml.safe_dump({"DATASET": {"TYPE": "folder", "ROOT": str(root)}})
    save()
    save(run="pets", dataset={"type": "folder", "classes": ["cat", "dog"]}, config=config)
    for dataset, pairs in {"synthetic": [], "folder": ["DATASET.ROOT", root]}.items():
        (row,) = rows_of(script(evaluation_main, "--dataset", dataset, *pairs).out)
        assert row[0] == dataset and script.status == 0
    script(evaluation_main, "--dataset", "cifar100").fails_with("no students on cifar100", "some on folder, synthetic")
    script(evaluation_main, "--dataset", "pets").fails_with("'pets'", "'tiny_imagenet'")


def test_dataset_names_the_data_of_a_file_that_does_not_tell_and_of_no_other(script, save, tmp_path):
    path = save()
    script(evaluation_main, "--dataset", "folder", "--checkpoint", path).fails_with(
        "best.pth was trained on", "synthetic"
    )
    torch.save(torch.load(path, weights_only=True)["model"], tmp_path / "bare.pth")
    flags = ["--dataset", "synthetic", "--checkpoint", tmp_path / "bare.pth", "--model", "resnet8"]
    (row,) = rows_of(script(evaluation_main, *flags, "DATASET.SYNTHETIC.TEST_IMAGES", 40).out)
    assert row[0] == "synthetic"


def test_students_tested_on_other_images_are_not_shown(script, save, tmp_path, monkeypatch):
    """The fingerprint is that of the data at DATASET.ROOT; a file without one may be of any data."""
    build = evaluation.build_data

    def with_fingerprints(*args, **options):
        data = build(*args, **options)
        object.__setattr__(data, "fingerprints", {"test": "a1"})
        return data

    monkeypatch.setattr(evaluation, "build_data", with_fingerprints)
    root, classes = folder_of_images(tmp_path / "pets"), ["cat", "dog"]
    config = yaml.safe_dump({"DATASET": {"TYPE": "folder", "ROOT": str(tmp_path / "moved")}})
    for run, fingerprints in {"old": None, "same": {"train": "c3", "test": "a1"}, "other": {"test": "b2"}}.items():
        save(run=run, dataset={"type": "folder", "classes": classes, "fingerprints": fingerprints}, config=config)
    rows = rows_of(script(evaluation_main, "--dataset", "folder", "DATASET.ROOT", root).out)
    assert {row[-1].split("/")[-2] for row in rows} == {"old", "same"}


def test_all_adds_teachers_and_baselines(script, save):
    save()
    for folder in (PLAIN, f"{PLAIN}/demo"):
        path = save(run=f"{folder[6:]}_resnet8", folder=folder, teacher=None, distiller="Vanilla")
        shutil.copy(path, script.utils / folder / "best_model_weights_resnet8.pth")
        shutil.copy(path, path.with_name("last.pth"))
    assert [row[1] for row in rows_of(script(evaluation_main).out)] == ["resnet14"]
    rows = rows_of(script(evaluation_main, "--all").out)
    assert [row[1:4:2] for row in rows] == [["-", "Vanilla"], ["-", "Vanilla"], ["resnet14", "KD"]]


def test_all_shows_a_run_of_train_py(script):
    script(training_main, "--selected_model", "resnet8", *TINY)
    script(evaluation_main).fails_with("no students in")
    (row,) = rows_of(script(evaluation_main, "--all").out)
    assert row[:5] == ["synthetic", "-", "resnet8", "Vanilla", "2021"]


def test_csv_has_the_same_rows_in_full(script, save, tmp_path, monkeypatch):
    paths = [save(), save(run="r" * 120, teacher=None, seed=4)]
    monkeypatch.chdir(tmp_path)
    rows = rows_of(script(evaluation_main, "--csv", "tables/all.csv").out)
    with open("tables/all.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == [*(title.replace("-", "") for title in HEADER), *OF_CSV]
    assert {row["file"] for row in written} == set(map(str, paths)) and written[0]["teacher"] == ""
    for row, (*_, top1, top5, loss, images, _file) in zip(written, rows, strict=True):
        assert (f"{float(row['top1']):.2f}", f"{float(row['top5']):.2f}") == (top1, top5)
        assert f"{float(row['loss']):.4f}" == loss != row["loss"] and row["images"] == images
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["all.csv"]
    script(evaluation_main, "--csv", tmp_path).fails_with("cannot write")
    assert len(rows_of(script.out)) == 2


def test_each_bad_file_has_a_line_of_its_own_after_the_table(script, save):
    save()
    for name in ("empty.pth", "broken.pth"):
        (script.utils / DISTILLED / name).write_bytes(b"no weights" if name == "broken.pth" else b"")
    script(evaluation_main)
    assert script.status == 2 and len(rows_of(script.out)) == 1
    broken, empty = script.err.splitlines()
    assert broken.startswith("error: ") and "broken.pth" in broken and "empty.pth are empty" in empty


def test_errors_follow_the_table_in_a_pipe(script, save):
    save()
    (script.utils / DISTILLED / "empty.pth").touch()
    code = f"""
import sys
from pathlib import Path
from mdistiller.engine.cli import evaluation_main, run_script
sys.exit(run_script(evaluation_main, Path({str(script.utils.parents[1])!r}), []))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first, *_, last = result.stdout.splitlines()
    assert result.returncode == 2 and first.startswith("dataset") and last.startswith("error: "), result.stdout


def test_text_of_a_file_cannot_reach_the_terminal_raw(script, save):
    save(teacher="a\x1b[31m\nb\u202e", distiller="KD\r\t")
    script(evaluation_main)
    assert "\\x1b[31m\\nb\\u202e" in script.out and "KD\\r\\t" in script.out and len(script.out.splitlines()) == 3
    save(run="x", network="\x1b]0;title\x07")
    script(evaluation_main)
    assert script.status == 2 and "\x1b" not in script.err and "\x07" not in script.err


@pytest.mark.parametrize("name", ["m" * 300, "教師" * 60, "e\u0301" * 200], ids=["long", "wide", "marks"])
def test_a_table_fits_the_terminal_whatever_the_names(script, save, name):
    time = "2026-01-01-00-00-00"
    save(run=f"{time}_{'r' * 200}", teacher=name, distiller=f"KD-{name}", epoch=10**18, seed=2**62)
    save(run=f"{time}_{'r' * 60}", teacher=name, distiller="KD")
    lines = script(evaluation_main).out.splitlines()
    assert len(lines) == 5, script.err
    assert all(columns_of(line) <= WIDTH for line in lines)
    assert f"{time}_{'r' * 60}/best.pth" in script.out and f"{time}_" in lines[2] + lines[4]


def test_a_short_path_stands_beside_its_row(script, save, monkeypatch):
    monkeypatch.chdir(save().parent)
    header, line = script(evaluation_main, "--checkpoint", "best.pth").out.splitlines()
    assert header.endswith("  images  file") and line.endswith("  40  best.pth")


def test_columns_are_counted_as_a_terminal_shows_them():
    assert [columns_of(text) for text in ("abc", "教師", "e\u0301")] == [3, 4, 1]
    assert align([("a", "n"), ("教師", "10")], numbers=["n"]) == "a      n\n教師  10"


def test_what_does_not_fit_is_shortened_where_it_matters_least():
    assert shorten("KD-standardised-tag", 9) == "KD-s…-tag"
    assert shorten_path("a/long/folder/run/best.pth", 17) == ("…/run/best.pth", True)
    assert shorten_path("run/best.pth", 10) == ("run/b….pth", False)
    assert printable("ok \udcff\x00") == "ok \\udcff\\x00"


def per_class(text):
    """The rows of the two tables after the first."""
    _, classes, *confusions = text.strip("\n").split("\n\n")
    return [[line.split() for line in table.splitlines()] for table in (classes, *confusions)]


def always(path, network, classes, answer):
    """Weights of a network that gives one answer to all images."""
    model = build_model("cifar100", network, classes)
    bias = list(model.parameters())[-1]
    with torch.no_grad():
        bias.copy_(100 * torch.nn.functional.one_hot(torch.tensor(answer), classes))
    torch.save(model.state_dict(), path)
    return path


def test_per_class_names_classes_and_confusions(script, tmp_path):
    root = folder_of_images(tmp_path / "pets", ("ant", "bee", "cat"))
    shutil.copy(root / "test/cat/0.png", root / "test/cat/2.png")
    flags = ["--checkpoint", always(tmp_path / "bee.pth", "resnet8", 3, 1), "--model", "resnet8", "--per_class"]
    run = script(evaluation_main, *flags, "--csv", tmp_path / "c.csv", "DATASET.TYPE", "folder", "DATASET.ROOT", root)
    assert run.status == 0, run.err
    (row,) = rows_of(run.out)
    assert row[-5:-1:3] == ["28.57", "7"]
    classes, confusions = per_class(run.out)
    assert classes == [["class", "images", "top-1"], ["ant", "2", "0.00"], ["cat", "3", "0.00"], ["bee", "2", "100.00"]]
    assert confusions[0] == ["true", "taken", "for", "count", "share"]
    assert confusions[1:] == [["cat", "bee", "3", "100.00"], ["ant", "bee", "2", "100.00"]]
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "class,images,top1",
        "ant,2,0.0",
        "cat,3,0.0",
        "bee,2,100.0",
    ]


def test_per_class_of_many_classes_shows_the_worst_and_the_best(script, tmp_path):
    names = [f"{number:02}{'x' * 90}" for number in range(30)]
    root = folder_of_images(tmp_path / "many", names)
    flags = ["--checkpoint", always(tmp_path / "w.pth", "resnet8", 30, 7), "--model", "resnet8", "--per_class"]
    run = script(evaluation_main, *flags, "--csv", tmp_path / "c.csv", "DATASET.TYPE", "folder", "DATASET.ROOT", root)
    classes, confusions = per_class(run.out)
    assert len(classes) == 1 + 20 + 1 + 5 and classes[21] == ["…", "5", "more"]
    assert classes[-1][0].startswith("07x") and classes[-1][2] == "100.00" and len(confusions) == 1 + 10
    assert all(columns_of(line) <= WIDTH for line in run.out.splitlines())
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 31


def test_per_class_agrees_with_the_top1_of_the_row(script, save):
    save()
    run = script(evaluation_main, "--per_class")
    (row,) = rows_of(run.out)
    classes = per_class(run.out)[0][1:]
    shown = [line for line in classes if line[0] != "…"]
    assert float(row[6]) == pytest.approx(sum(int(n) * float(top1) for *_, n, top1 in shown) / 40, abs=0.01)


def test_per_class_counts_answers_outside_the_data(script, save, synthetic, tmp_path):
    """Of weights that score more classes than the data has any may win."""
    root = folder_of_images(tmp_path / "pets")
    state = torch.load(always(tmp_path / "w.pth", "resnet8", 3, 2), weights_only=True)
    torch.save(
        {"model": state, "meta": {"network": "resnet8", "dataset": {"classes": ["dog", "cat", "owl"]}}},
        tmp_path / "w.pth",
    )
    flags = ["--checkpoint", tmp_path / "w.pth", "--per_class", "DATASET.TYPE", "folder", "DATASET.ROOT", root]
    classes, confusions = per_class(script(evaluation_main, *flags).out)
    assert classes[1:] == [["dog", "2", "0.00"], ["cat", "2", "0.00"]]
    assert confusions[1:] == [["dog", "owl", "2", "100.00"], ["cat", "owl", "2", "100.00"]]


def test_a_network_without_a_mistake_has_no_confusions(script, tmp_path):
    root = folder_of_images(tmp_path / "one", ("ant",))
    flags = ["--checkpoint", always(tmp_path / "w.pth", "resnet8", 1, 0), "--model", "resnet8", "--per_class"]
    run = script(evaluation_main, *flags, "DATASET.TYPE", "folder", "DATASET.ROOT", root)
    assert per_class(run.out) == [[["class", "images", "top-1"], ["ant", "2", "100.00"]]]


def test_flags_that_do_not_go_together_are_one_line(script, save):
    path = save()
    save(run="another")
    script(evaluation_main, "--per_class").fails_with("--per_class takes one file", "there are 2", "--checkpoint")
    script(evaluation_main, "--all", "--checkpoint", path).fails_with("--all has no effect")
    script(evaluation_main, "DATASET.ROOT").fails_with("'DATASET.ROOT' has no value")


def test_evaluation_has_a_progress_bar_on_a_terminal_only(script, save):
    path = save()
    assert script(evaluation_main, "--checkpoint", path).err == ""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, str(PROJECT / "test.py"), "--checkpoint", str(path)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    shown = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # how Linux ends a terminal's output
            break
        if not block:
            break
        shown += block
    assert os.waitpid(process, 0)[1] == 0, shown
    bar, _, table = shown.decode().partition("dataset")
    assert "Evaluating 1/1" in bar and "/40" in bar and bar.endswith("\r") and "Evaluating" not in table


def config_in(save, values, **meta):
    """A file whose `meta` has the config `values`, as YAML or text."""
    return save(config=values if isinstance(values, str) else yaml.safe_dump(values), **meta)


def test_a_file_does_not_say_where_images_are(script, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("a download"))
    monkeypatch.setattr(
        evaluation, "build_data", lambda cfg, *_, **__: (_ for _ in ()).throw(UserError(cfg.DATASET.ROOT))
    )
    root = tmp_path / "elsewhere"
    path = config_in(save, {"DATASET": {"TYPE": "imagenet", "ROOT": str(root)}}, dataset={"type": "cifar100"})
    script(evaluation_main, "--checkpoint", path).fails_with("error: data\n")
    script(evaluation_main, "--checkpoint", path, "DATASET.ROOT", "mine").fails_with("error: mine\n")
    assert not root.exists()


def test_a_file_of_a_folder_asks_for_the_folder(script, save, tmp_path):
    root = folder_of_images(tmp_path / "pets")
    classes = {"type": "folder", "classes": ["cat", "dog"]}
    path = config_in(save, {"DATASET": {"TYPE": "folder", "ROOT": str(root)}}, dataset=classes)
    script(evaluation_main, "--checkpoint", path).fails_with("type DATASET.ROOT FOLDER", f"its run had {root}")
    assert script(evaluation_main, "--checkpoint", path, "DATASET.ROOT", root).status == 0


CONFIGS_IN_FILES = {
    "many images": ({"DATASET": {"SYNTHETIC": {"TEST_IMAGES": 10**13}}}, "TEST_IMAGES is 10000000000000; expected at"),
    "large images": ({"DATASET": {"IMAGE_SIZE": 10**6}}, "IMAGE_SIZE is 1000000; expected"),
    "a number for a section": ({"DATASET": {"SYNTHETIC": 5}}, "DATASET.SYNTHETIC"),
    "text for a number": ({"DATASET": {"IMAGE_SIZE": "large"}}, "IMAGE_SIZE"),
    "an unknown key": ({"DATASET": {"SYNTHETIC": {"X": 1}}}, "SYNTHETIC.X"),
    "no mapping": ("- a", "holds a list"),
    "no YAML": ("a: [", "is not valid YAML"),
    "a Python object": ("a: !!python/object/apply:os.system [x]", "is not valid YAML"),
}


@pytest.mark.parametrize("name", CONFIGS_IN_FILES)
def test_a_config_in_a_file_that_is_not_right_is_one_line(script, save, name):
    values, part = CONFIGS_IN_FILES[name]
    script(evaluation_main, "--checkpoint", config_in(save, values)).fails_with(part)


@pytest.mark.parametrize(
    "values", [{"EXPERIMENT": 5}, {"DATASET": 5}, {"SOLVER": {"X": 1}}, {"DATASET": {"TYPE": "x"}}]
)
def test_a_config_in_a_file_of_which_nothing_is_used_is_passed_over(script, save, values):
    assert script(evaluation_main, "--checkpoint", config_in(save, values)).status == 0, script.err


def test_processes_and_batches_are_not_a_files_to_choose(save):
    evaluator = evaluation.Evaluator(None, [], torch.device("cpu"))
    values = {"DATASET": {"NUM_WORKERS": 10**6, "TEST": {"BATCH_SIZE": 10**9}}, "LOG": {"WANDB": True}}
    cfg = evaluator.config_of(weight_file(config_in(save, values), "cifar100"))
    assert (cfg.DATASET.NUM_WORKERS, cfg.DATASET.TEST.BATCH_SIZE) == (CFG.DATASET.NUM_WORKERS, 64)
    assert not cfg.LOG.WANDB


def test_a_data_set_of_a_file_that_there_is_not_is_one_line(script, save):
    path = save(dataset={"type": "\x1b[2Jx"}, config="")
    script(evaluation_main, "--checkpoint", path).fails_with("unknown data set", "\\x1b[2Jx")


@pytest.mark.parametrize("classes", [3, 50_000])
def test_names_of_classes_that_are_not_scored_are_one_line(script, save, tmp_path, classes):
    path = save()
    content = torch.load(path, weights_only=True)
    content["meta"]["dataset"]["classes"] += [str(number) for number in range(classes)]
    torch.save(content, path)
    script(evaluation_main, "--checkpoint", path).fails_with("best.pth are damaged: they name")


def test_a_special_file_among_the_students_is_one_line_after_the_table(script, save):
    folder = save().parents[1]
    os.mkfifo(folder / "pipe.pth")
    (folder / "loop.pth").symlink_to("loop.pth")
    script(evaluation_main)
    assert len(rows_of(script.out)) == 1 and script.status == 2
    assert [line.startswith("error: cannot read weights") for line in script.err.splitlines()] == [True, True]


def test_the_config_beside_the_log_says_where_images_are(script, save, tmp_path):
    root = folder_of_images(tmp_path / "pets")
    save(run="pets", dataset={"type": "folder", "classes": ["cat", "dog"]}, config="")
    (script.utils / "distiller_train_log").mkdir()
    path = script.utils / "distiller_train_log" / "experiment_cifar-100_pets.yaml"
    path.write_text(f"DATASET: {{TYPE: folder, ROOT: {root}}}")
    assert script(evaluation_main).status == 0, script.err


@pytest.mark.parametrize("run", ["../../*", "*", "[", "/etc/passwd", "a\0b", ""])
def test_the_name_of_a_run_finds_no_config_but_its_own(script, save, run):
    save("w.pth", run=run)
    (script.utils / "distiller_train_log").mkdir()
    path = script.utils / "distiller_train_log" / "experiment_cifar-100_other.yaml"
    path.write_text("DATASET: {TYPE: folder, ROOT: elsewhere}")
    assert script(evaluation_main).status == 0, script.err


def test_a_config_in_a_file_whose_aliases_multiply_is_one_line(script, save):
    lines = ["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 6))]
    script(evaluation_main, "--checkpoint", config_in(save, "\n".join(lines))).fails_with("the meta of", "best.pth")
