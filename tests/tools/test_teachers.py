"""`tools/teachers.py`: the released teachers come whole or not at all, are tested, and are trained."""

import io
import os
import subprocess
import sys
import tarfile

import pytest
import torch

from mdistiller.engine.index import CIFAR100
from mdistiller.engine.weights import read_weights
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY, Script
from tests.tools.conftest import Tool
from tests.tools.server import serving
from tools import download, teachers

NAMES = "resnet8", "resnet14"


def member(name):
    return f"cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth"


def weights_of(name):
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save({"opt": 1, "model": build_model("cifar100", name, 100).state_dict()}, file)
    return file.getvalue()


WEIGHTS = {name: weights_of(name) for name in NAMES}


def tar_of(files, links=(), **options):
    """A tar archive of {name: content}, and of links, (name, kind, target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for name, kind, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


GOOD = {member(name): WEIGHTS[name] for name in NAMES}


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool in a project of its own, where two small networks are the released ones."""
    monkeypatch.setattr(teachers, "RELEASED", dict.fromkeys(NAMES, 1.0))
    monkeypatch.setattr(download, "WAIT", 0)
    tool = Tool(lambda arguments: teachers.main(tmp_path, arguments))
    tool.project, tool.folder = tmp_path, tmp_path / "download_ckpts"
    tool.places = {name: tool.folder / member(name) for name in NAMES}
    return tool


@pytest.fixture
def server():
    with serving(tar_of({"cifar_teachers/notes.txt": b"", **GOOD})) as server:
        yield server


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_fetch_puts_all_in_their_places_and_leaves_nothing_else(tool, server):
    server.ways += [{"bytes": 1000}]
    assert tool("fetch", "--url", server.url).status == 0, tool.err
    assert left_in(tool.folder) == sorted(map(member, NAMES))
    for name, place in tool.places.items():
        assert place.read_bytes() == WEIGHTS[name]
        assert read_weights(place)[0].keys() == build_model("cifar100", name, 100).state_dict().keys()


def test_fetch_of_one_keeps_the_archive_for_the_others(tool, server):
    assert tool("fetch", "resnet8", "--url", server.url).status == 0, tool.err
    assert left_in(tool.folder) == ["cifar_teachers.tar", member("resnet8")]
    assert tool("fetch", "--url", "http://127.0.0.1:1/").status == 0, tool.err
    assert tool.places["resnet14"].read_bytes() == WEIGHTS["resnet14"]


def test_fetch_overwrites_nothing(tool, server):
    tool.places["resnet8"].parent.mkdir(parents=True)
    tool.places["resnet8"].write_bytes(b"mine")
    assert tool("fetch", "--url", server.url).status == 0, tool.err
    assert tool.places["resnet8"].read_bytes() == b"mine" and "kept: resnet8" in tool.out
    assert tool("fetch", "--url", server.url).out.startswith("all there, and kept")
    assert len(server.ranges) == 1


def test_something_else_in_the_place_of_a_file_is_one_line(tool, server):
    tool.places["resnet8"].mkdir(parents=True)
    tool("fetch", "--url", server.url).fails_with("is no file; move it away")


@pytest.mark.parametrize("name", ["cifar_teachers.tar", "cifar_teachers.tar.part"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_something_else_in_the_place_of_the_archive_is_one_line(tool, server, name, make):
    tool.folder.mkdir()
    make(tool.folder / name)
    tool("fetch", "--url", server.url).fails_with(name)


def header_of(kind):
    entry = tarfile.TarInfo("x")
    entry.type = kind
    return entry.tobuf(tarfile.USTAR_FORMAT)


BAD = {
    "a page": b"<html>" * 1000,
    "nothing": b"",
    "zeros": bytes(10_240),
    "cut off": tar_of(GOOD)[:-300_000],
    "cut off in its last file": tar_of(dict(reversed(GOOD.items())))[: 512 + len(WEIGHTS["resnet14"]) + 2000],
    "compressed": b"\x1f\x8b" + bytes(1000),
    "other files": tar_of({"cifar_teachers/notes.txt": b""}),
    "one is missing": tar_of({member("resnet8"): WEIGHTS["resnet8"]}),
    "other folders": tar_of({f"../{name}": content for name, content in GOOD.items()}),
    "absolute": tar_of({f"/{name}": content for name, content in GOOD.items()}),
    "a symbolic link": tar_of({}, [(member(name), tarfile.SYMTYPE, "/etc/passwd") for name in NAMES]),
    "a hard link": tar_of({"a": b""}, [(member(name), tarfile.LNKTYPE, "a") for name in NAMES]),
    "a pipe": tar_of({}, [(member(name), tarfile.FIFOTYPE, "") for name in NAMES]),
    "a folder": tar_of({}, [(member(name), tarfile.DIRTYPE, "") for name in NAMES]),
    "headers without end": header_of(tarfile.XHDTYPE) * 3000,
    "too many entries": tar_of({**{str(number): b"" for number in range(1100)}, **GOOD}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_such_archive_is_one_line_and_changes_nothing(tool, content):
    with serving(content) as server:
        tool("fetch", "--url", server.url).fails_with("is not used", "--url")
    assert left_in(tool.folder) == [] and not (tool.project / "etc").exists()


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def pickled(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


BAD_WEIGHTS = {
    "another network": WEIGHTS["resnet14"],
    "code": pickled({"model": Harmful()}),
    "nothing": b"",
    "a page": b"<html>",
    "cut off": WEIGHTS["resnet8"][:-5000],
    "other classes": pickled(build_model("cifar100", "resnet8", 10).state_dict()),
    "no numbers": pickled({k: v * torch.nan for k, v in build_model("cifar100", "resnet8", 100).state_dict().items()}),
}


@pytest.mark.parametrize("content", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_do_not_fit_take_no_place_and_the_others_do(tool, content, monkeypatch):
    monkeypatch.chdir(tool.project)
    with serving(tar_of({**GOOD, member("resnet8"): content})) as server:
        tool("fetch", "--url", server.url).fails_with(member("resnet8"), "cifar_teachers.tar")
    assert left_in(tool.folder) == ["cifar_teachers.tar", member("resnet14")] and not os.path.exists("harm")


def test_a_damaged_archive_that_was_put_there_is_kept_and_named(tool, server):
    tool.folder.mkdir()
    (tool.folder / "cifar_teachers.tar").write_bytes(b"<html>")
    tool("fetch", "--url", server.url).fails_with("cifar_teachers.tar is no tar archive", "remove that file")
    assert left_in(tool.folder) == ["cifar_teachers.tar"] and not server.ranges


def test_of_two_at_once_the_second_is_told(tool, server):
    tool.folder.mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    words = [sys.executable, "-c", code, str(tool.folder / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        tool("fetch", "--url", server.url).fails_with("fetching to download_ckpts goes on in")
        other.communicate(b"\n")
    assert not server.ranges


@pytest.fixture
def data(samples, tmp_path):
    """Words that name a test image of each class of CIFAR-100."""
    for folder in (samples / "cifar100_sample/test").iterdir():
        place = tmp_path / "images/test" / folder.name
        place.mkdir(parents=True)
        image = min(folder.iterdir())
        (place / image.name).symlink_to(image)
    (tmp_path / "images/train").symlink_to(tmp_path / "images/test")
    return ["DATASET.TYPE", "folder", "DATASET.ROOT", tmp_path / "images", "--device", "cpu"]


def test_check_has_a_row_a_file_and_names_what_is_far_below(tool, data, monkeypatch):
    monkeypatch.setattr(teachers, "RELEASED", {"resnet8": 0.5, "resnet14": 60.0})
    for name, place in tool.places.items():
        place.parent.mkdir(parents=True)
        place.write_bytes(WEIGHTS[name])
    monkeypatch.chdir(tool.project)
    assert tool("check", "resnet8", *data).status == 0, tool.err
    assert [line.split()[:2] for line in tool.out.splitlines()] == [["teacher", "from"], ["resnet8", "MDistiller"]]
    tool("check", *data).fails_with("resnet14 of MDistiller reaches", "and 60.00 was published")
    assert tool.out.count("\n") == 3 and max(map(len, tool.out.splitlines())) <= 100


def test_check_of_a_damaged_file_leaves_the_others_their_rows(tool, data):
    for name, place in tool.places.items():
        place.parent.mkdir(parents=True)
        place.write_bytes(WEIGHTS[name] if name == "resnet8" else b"<html>")
    tool("check", *data).fails_with("a web page")
    assert tool.out.count("\n") == 2


def test_trained_teachers_are_compared_with_the_published_table():
    assert teachers.published("resnet56", "train.py") == 71.22 and teachers.published("resnet56", "MDistiller") == 72.34
    assert teachers.published("ResNet50", "train.py") is None


def test_teachers_are_trained_once_and_one_that_was_stopped_goes_on(tool):
    Script(tool.project)
    words = ["train", *NAMES, *TINY, "--device", "cpu"]
    assert tool("train", "resnet8", *words[3:]).status == 0, tool.err
    assert tool(*words).status == 0 and tool.out.startswith("resnet8: finished, "), tool.err
    utils = tool.project / CIFAR100.folder / "Utils"
    assert len(list(utils.glob("model_pth/*/best.pth"))) == 2
    (log,) = utils.glob("model_train_log/*resnet14.log")
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "Learning Time" not in line))
    assert tool(*words).status == 0, tool.err
    assert len(list(utils.glob("model_pth/*/best.pth"))) == 2 and "Learning Time" in log.read_text()


def test_synthetic_teachers_are_none_of_cifar_100(tool):
    Script(tool.project)
    tool("train", "resnet8", *TINY, "SOLVER.EPOCHS", "1", "--device", "cpu")
    tool("check").fails_with("none of resnet8, resnet14 is here", "teachers.py fetch")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "the following arguments are required"),
        ("get", "invalid choice: 'get'"),
        ("fetch resnet9", "unknown network 'resnet9'"),
        ("fetch resnet20", "resnet20 is none of resnet8, resnet14"),
        ("fetch 99", "unknown teacher index 99"),
        ("fetch --url x", "--url is 'x'"),
        ("check --url http://a/b", "--url has no effect on check"),
        ("fetch --device cpu", "--device has no effect on fetch"),
        ("fetch DATASET.ROOT x", "DATASET.ROOT has no effect on fetch"),
        ("check DATASET.ROOT", "DATASET.ROOT has no value"),
        ("train SOLVER.EPOCH 3", "SOLVER.EPOCH"),
        ("train --device tpu", "device 'tpu' is not available"),
        ("check", "none of resnet8, resnet14 is here"),
    ],
)
def test_a_bad_flag_is_one_line(tool, words, part):
    Script(tool.project)
    tool(*words.split()).fails_with(part)


def test_help_is_ten_lines(capsys):
    with pytest.raises(SystemExit):
        teachers.parse(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10 and max(map(len, lines)) <= 120


def test_names_and_indices_mean_the_six():
    assert teachers.parse(["train", "1", "RESNET110", "resnet56"]).names == ["resnet56", "resnet110"]
    assert teachers.parse(["fetch"]).names == list(CIFAR100.teachers[:6])
    with pytest.raises(UserError, match="none of resnet32x4"):
        teachers.parse(["fetch", "resnet20"])
