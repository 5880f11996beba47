"""`tools/predict.py`: what a student takes images for; what cannot be read is told, and the rest goes on."""

import pytest
import torch
from PIL import Image

import mdistiller
from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.engine.tables import WIDTH, columns_of
from mdistiller.models import build_model
from tests.engine.test_students import picture, save
from tests.tools.conftest import Tool
from tools import predict

PREDICT = Tool(predict.main)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images in a folder in the working directory, one in a folder below it."""
    (tmp_path / "images/below").mkdir(parents=True)
    for name, width in (("a.png", 40), ("b.JPG", 33), ("below/c.tif", 64)):
        picture(width).save(tmp_path / "images" / name)
    (tmp_path / "images/notes.txt").write_text("no image")
    (tmp_path / "images/below/again").symlink_to(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def rows_of(text):
    header, *rows = text.splitlines()
    assert header.split() == ["image", "class", "probability"] and all(columns_of(row) <= WIDTH for row in rows)
    return [row.split() for row in rows]


def test_classes_are_those_of_the_highest_probability(checkpoint, pictures):
    assert PREDICT(checkpoint, pictures / "a.png", "--top", 2, "--device", "cpu").status == 0, PREDICT.err
    student = mdistiller.load_student(checkpoint)
    with Image.open(pictures / "a.png") as image, torch.no_grad():
        expected = student.network(student.transform(image)[None])[0].softmax(1)[0].sort(descending=True)
    names = [student.class_names[place] for place in expected.indices]
    values = [f"{value:.4f}" for value in expected.values.tolist()]
    assert rows_of(PREDICT.out) == [["images/a.png", names[0], values[0]], [names[1], values[1]]]


def test_folders_are_searched_for_images_once_each(checkpoint, pictures):
    assert PREDICT(checkpoint, pictures, "--top", 1).status == 0, PREDICT.err
    assert [row[0] for row in rows_of(PREDICT.out)] == ["images/a.png", "images/b.JPG", "images/below/c.tif"]


def test_many_images_are_taken_in_several_batches(checkpoint, pictures, monkeypatch):
    PREDICT(checkpoint, pictures)
    together = rows_of(PREDICT.out)
    monkeypatch.setattr(predict, "BATCH", 2)
    PREDICT(checkpoint, pictures)
    assert [row[:-1] for row in rows_of(PREDICT.out)] == [row[:-1] for row in together]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(checkpoint, pictures):
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n")
    (pictures / "empty").mkdir()
    words = pictures / "nowhere.png", pictures / "bad.png", pictures / "empty", pictures / "a.png", pictures / "bad.png"
    assert PREDICT(checkpoint, *words, "--top", 1).status == 2
    assert [row[0] for row in rows_of(PREDICT.out)] == ["images/a.png"]
    lines = PREDICT.err.splitlines()
    assert len(lines) == 4 and all(line.startswith("error: ") for line in lines) and "no images in" in lines[0]


def test_long_names_fit_the_width(tmp_path, pictures):
    classes = [f"{'long ' * 20}{number}" for number in range(6)]
    save(tmp_path / "w.pth", dataset={"classes": classes})
    (pictures / f"{'n' * 150}.png").symlink_to(pictures / "a.png")
    assert PREDICT(tmp_path / "w.pth", pictures).status == 0
    assert all(columns_of(line) <= WIDTH for line in PREDICT.out.splitlines())


def test_numbers_of_imagenet_have_words(tmp_path, pictures):
    torch.save(build_model("imagenet", "MobileNetV1", 1000).state_dict(), tmp_path / "w.pth")
    flags = "--model", "MobileNetV1", "--num_classes", 1000, "DATASET.TYPE", "imagenet", "DATASET.IMAGE_SIZE", "64"
    assert PREDICT(tmp_path / "w.pth", pictures / "a.png", *flags).status == 0, PREDICT.err
    assert len(rows_of(PREDICT.out)) == 5 and predict.with_words(IMAGENET_WNIDS)[1] == "n01443537 goldfish"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "no images; name files or folders"),
        ("CAT.PNG", "cannot read image CAT.PNG"),
        ("a.png DATASET.IMAGE_SIZ 32", "DATASET.IMAGE_SIZE"),
        ("a.png --top 0", "--top is 0"),
        ("a.png --top x", "invalid int value"),
        ("a.png --device tpu", "device 'tpu' is not available"),
        ("a.png --model resnet9", "unknown network 'resnet9'"),
        ("a.png --tops 3", "unknown flag '--tops'"),
    ],
)
def test_a_bad_flag_is_one_line(checkpoint, arguments, part):
    PREDICT(checkpoint, *arguments.split()).fails_with(part)
