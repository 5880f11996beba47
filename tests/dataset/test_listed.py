"""Images that a CSV file lists."""

import os

import pytest
from PIL import Image

from mdistiller.dataset import build_data
from mdistiller.dataset.images import unreadable
from mdistiller.dataset.listed import find_listed
from mdistiller.errors import UserError
from tests.dataset.test_build_data import config

FILES = ["köter/héron.png", "köter/猫 1.png", "a,b.png", "4.png", "5.png"]
ROWS = [
    "köter/héron.png,vögel,train",
    "köter/猫 1.png,猫,train",
    '"a,b.png",猫,test',
    "4.png,vögel,test",
    "5.png,vögel,val",
]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 50), (number,) * 3).save(tmp_path / name)
    return tmp_path


def write(folder, *rows, header="file,label,split", end="\n", encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(end.join([header, *rows]).encode(encoding))
    return path


def message(path, split="train"):
    with pytest.raises(UserError) as error:
        find_listed(path, split)
    text = str(error.value)
    assert text.isprintable()
    return text


def listed(files):
    return [
        (str(files.path(row).relative_to(files.root)), files.classes[files.targets[row]]) for row in range(len(files))
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\r\n,,\r\n"])
def test_names_are_read_whatever_ends_the_lines(folder, end, encoding):
    path = write(folder, *ROWS, "", end=end, encoding=encoding)
    assert listed(find_listed(path, "train")) == [(FILES[0], "vögel"), (FILES[1], "猫")]
    assert listed(find_listed(path, "test")) == [(FILES[2], "猫"), (FILES[3], "vögel")]
    assert listed(find_listed(path, "val")) == [(FILES[4], "vögel")]


def test_columns_come_in_any_order(folder):
    path = write(folder, "train,x,4.png", "test,x,5.png", header=" Split, Label, File")
    assert listed(find_listed(path, "test")) == [("5.png", "x")]


def test_classes_are_those_of_the_training_images_sorted(folder):
    path = write(folder, "4.png,10,train", "5.png,9,train", '"a,b.png",9,test')
    assert find_listed(path, "test").classes == ["10", "9"]


def test_val_stands_in_for_test(folder):
    path = write(folder, "4.png,x,train", "5.png,x,val")
    assert listed(find_listed(path, "test")) == [("5.png", "x")] and find_listed(path, "val") is None


def test_without_splits_all_are_test_images(folder):
    path = write(folder, "4.png,x", "5.png,y", header="file,label")
    assert listed(find_listed(path, "test")) == [("4.png", "x"), ("5.png", "y")]
    assert "has no column split; add it, with train, test or val for each image" in message(path)


def test_a_file_is_found_by_any_path_below_the_folder(folder):
    path = write(folder, "./köter/../4.png,x,train")
    assert listed(find_listed(path, "train")) == [("4.png", "x")]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (["4.png,x,train", "6.png,x,train"], ["line 3", "names 6.png", "No such file", "below"]),
        (["4.png,x,train", "köter,x,train"], ["line 3", "names köter", "directory"]),
        (["4.png,x,train", "../out.png,x,train"], ["line 3", "../out.png, outside"]),
        (["4.png,x,train", "köter/../../out.png,x,train"], ["line 3", "outside"]),
        (["4.png,x,train", "/etc/passwd,x,train"], ["line 3", "outside"]),
        (["4.png,x,train", "5.png,,train"], ["line 3", "no label"]),
        (["4.png,x,train", "5.png,  ,train"], ["line 3", "no label"]),
        (["4.png,x,train", ",x,train"], ["line 3", "no file"]),
        (["4.png,x,train", "./4.png,y,test"], ["line 3", "./4.png, as line 2 does"]),
        (["4.png,x,train", '"5\n.png",x,train', "4.png,x,test"], ["line 5", "as line 2"]),
        (["4.png,x,train", "5.png,x"], ["line 3", "2 columns; expected 3"]),
        (["4.png,x,train", "5.png,x,train,"], ["line 3", "4 columns; expected 3"]),
        (["4.png,x,train", "5.png,x,tset"], ["line 3", "'tset'", "train, test, val"]),
        (["4.png,x,train", "5.png,x,"], ["line 3", "split ''"]),
        (["4.png,x,train", '"5.png,x,train'], ["line 3", "unexpected end of data"]),
        (["4.png,x,train", f"{'x' * 200_000},x,train"], ["line 3", "field larger"]),
        (["4.png,x,train", f"{'x' * 5000},x,train"], ["line 3", "xxx, which cannot be read (File name too long)"]),
        (["4.png,x,train", "a\0b,x,train"], ["line 3"]),
        (["4.png,x\x1b[31m,train", "5\x1b.png,y,train"], ["line 3", "5\\x1b.png"]),
        (["4.png,x,test"], ["no image of the split train"]),
        ([], ["lists no images"]),
    ],
)
def test_a_wrong_line_is_named(folder, rows, parts):
    text = message(write(folder, *rows))
    assert all(part in text for part in parts) and str(folder / "labels.csv") in text, text


def test_a_label_that_only_test_has_is_named(folder):
    path = write(folder, "4.png,x,train", "5.png,y,test")
    assert "line 3" in message(path, "test") and "label y, which no image of train has" in message(path, "test")


@pytest.mark.parametrize(
    "header",
    [
        "file;label;split",
        "path,label,split",
        "4.png,x,train",
        "file,label,split,x",
        "file",
        "",
        "file,label,label",
        "file,file,label,split",
    ],
)
def test_a_wrong_header_is_named(folder, header):
    assert "line 1" in message(write(folder, "4.png,x,train", header=header))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "utf-16", "latin-1", "empty"])
def test_what_is_no_csv_file_is_one_line(folder, kind):
    path = folder / "labels.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind != "missing":
        write(folder, "köter.png,x,train", encoding=kind)
    assert str(path) in message(path)


def test_a_listed_file_that_is_a_pipe_is_named(folder):
    os.mkfifo(folder / "pipe.png")
    assert "line 2" in message(write(folder, "pipe.png,x,train"))


def test_a_listed_file_that_is_no_image_is_named_as_in_a_folder(folder):
    (folder / "4.png").write_text("no image")
    path = write(folder, *ROWS)
    with pytest.raises(UserError) as error:
        build_data(config(TYPE="csv", ROOT=str(path), IMAGE_SIZE=32), "cpu", seed=0)
    assert str(error.value).startswith(str(unreadable(folder / "4.png", ""))[:40])


@pytest.mark.parametrize("side", [32, 160])
def test_images_are_held_where_they_are_small_and_read_from_their_files_where_not(folder, side):
    data = build_data(config(TYPE="csv", ROOT=str(write(folder, *ROWS)), IMAGE_SIZE=side), "cpu", seed=0)
    assert type(data.train).__name__ == {32: "Loader", 160: "FileLoader"}[side] and data.val_from == "val"
    assert next(iter(data.train))["image"].shape == (4, 3, side, side) and len(data.val.image_set) == 1


def test_two_validation_sets_are_refused(folder):
    path = str(write(folder, *ROWS))
    with pytest.raises(UserError, match=r"the val of .*are two validation sets"):
        build_data(config(TYPE="csv", ROOT=path, VAL_FRACTION=0.5), "cpu", seed=0)
