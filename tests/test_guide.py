"""README and docs/extending.md as a newcomer types them: files as they are printed, commands with smaller sizes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
COPIED = "CIFAR-100", "configs", "mdistiller", "test.py"
README, GUIDE = ((PROJECT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/extending.md"))
SHORT = "SOLVER.EPOCHS 1 SOLVER.BATCH_SIZE 8 SOLVER.LR 0.001 DATASET.AUGMENT weak".split()  # noise is learnt slowly
DRAWN = "DATASET.SYNTHETIC.TRAIN_IMAGES 32 DATASET.SYNTHETIC.TEST_IMAGES 16".split()
CLASSES, IMAGES = ("cat", "dog"), 8


@pytest.fixture
def clone(tmp_path):
    """A copy of what a run needs, without what runs here have written."""
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.log", "*.pth", "__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def saved(text, name):
    """The block of code that the page says to save as `name`."""
    return re.search(rf"[Ss]ave this as\s`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]


def command(text, *words):
    """The page's only line of shell that has all `words`."""
    lines = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    (line,) = [line for line in lines if all(word in line for word in words)]
    return shlex.split(line, comments=True)


def typed(folder, words, *sizes):
    """What a command prints that ends well."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "CUDA_VISIBLE_DEVICES": ""
    }
    found = subprocess.run(
        [sys.executable, *words[1:], *sizes], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_from_a_clone_to_a_method_of_one_s_own_on_images_of_one_s_own(clone):
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            folder = clone / "my_images" / split / name
            folder.mkdir(parents=True)
            for number in range(IMAGES):
                Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (clone / "my_method.py").write_text(saved(README, "my_method.py"), encoding="utf-8")
    typed(clone, command(README, "--selected_model resnet56", "my_images"), *SHORT)
    own = command(README, "--distiller my_method.py:LogitMSE")
    method = [*own[own.index("--distiller") :]]
    typed(clone, command(README, "--selected_student 2", "my_images"), *method, *SHORT)
    table = typed(clone, command(README, "python test.py", "every distilled student"))
    assert "resnet20_LogitMSE" in table or ("resnet20" in table and "LogitMSE" in table)


def test_the_method_s_own_command_runs(clone):
    (clone / "my_method.py").write_text(saved(README, "my_method.py"), encoding="utf-8")
    assert "distilled by LogitMSE" in typed(clone, command(README, "my_method.py:LogitMSE"), *SHORT, *DRAWN)


def test_both_pages_have_the_same_method_and_command():
    assert saved(README, "my_method.py") == saved(GUIDE, "my_method.py")
    assert command(README, "my_method.py:LogitMSE") == command(GUIDE, "my_method.py:LogitMSE")


def test_the_method_is_one_of_the_package_where_its_file_is_put_there(clone):
    (clone / "mdistiller/distillers/LogitMSE.py").write_text(saved(GUIDE, "my_method.py"), encoding="utf-8")
    words = ["python", "CIFAR-100/Utils/distillation_train.py", "--selected_distiller", "LogitMSE", "--print_cfg"]
    assert "TYPE: LOGITMSE" in typed(clone, words)


def test_the_recipe_is_its_base_and_what_it_says(clone):
    (clone / "my_recipe.yaml").write_text(saved(GUIDE, "my_recipe.yaml"), encoding="utf-8")
    printed = typed(clone, command(GUIDE, "my_recipe.yaml"))
    assert "EPOCHS: 100" in printed and "TEMPERATURE: 2" in printed and "WEIGHT_DECAY: 0.0005" in printed


def test_the_network_trains(clone):
    (clone / "my_net.py").write_text(saved(GUIDE, "my_net.py"), encoding="utf-8")
    typed(clone, command(GUIDE, "my_net.py:make_net"), *SHORT, *DRAWN)
    assert list(clone.glob("CIFAR-100/Utils/model_pth/**/*my_net-make_net*"))


def test_the_data_set_trains(clone):
    reader = "mdistiller/dataset/arrays.py"
    (clone / reader).write_text(saved(GUIDE, reader), encoding="utf-8")
    row = re.search(r"^```python\n(from mdistiller\.dataset\.arrays.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)[1]
    table = clone / "mdistiller/dataset/sources.py"
    text, end = table.read_text(encoding="utf-8"), "def fill_defaults"
    table.write_text(text.replace(end, f"{row}\n\n{end}"), encoding="utf-8")
    draw = np.random.default_rng(0)
    (clone / "my_arrays").mkdir()
    for split in ("train", "test"):
        images, targets = draw.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8), np.arange(16) % 2
        np.savez(clone / "my_arrays" / split, images=images, targets=targets, classes=np.array(CLASSES))
    typed(clone, command(GUIDE, "DATASET.TYPE arrays"), *SHORT)
    assert list(clone.glob("CIFAR-100/Utils/model_pth/best_model_weights_resnet20*.pth"))
