"""Small copies of published data sets, laid out as torchvision's classes read them; without their MD5."""

import json
import pickle

import numpy as np
from PIL import Image

NAMES = ["Abyssinian", "Great Pyrenees", "Yorkshire Terrier"]
LABELS = {"train": [2, 0, 1, 1, 0, 2, 0, 1], "test": [1, 0, 2, 0], "val": [0, 2, 1]}


def draw(count, side, seed=0):
    """Images of noise, uint8 (count, side, side, 3)."""
    return np.random.default_rng([seed, count, side]).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def save(path, seed, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(1, side, seed)[0]).resize((side, side + 20)).save(path)


def make_cifar10(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = {split: draw(len(labels), 32).transpose(0, 3, 1, 2).reshape(-1, 3072) for split, labels in LABELS.items()}
    files = {"test_batch": {"data": pixels["test"], "labels": LABELS["test"]}}
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        files[f"data_batch_{number + 1}"] = {"data": pixels["train"][part], "labels": LABELS["train"][part]}
    files["batches.meta"] = {"label_names": [*NAMES, *"defghij"]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))


def make_svhn(root):
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        labels = np.array(LABELS[split], np.uint8)
        labels[labels == 0] = 10
        savemat(root / f"{split}_32x32.mat", {"X": draw(len(labels), 32).transpose(1, 2, 3, 0), "y": labels[:, None]})


def make_stl10(root):
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        draw(len(LABELS[split]), 96).transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        (np.array(LABELS[split], np.uint8) + 1).tofile(folder / f"{split}_y.bin")
    draw(1, 96).tofile(folder / "unlabeled_X.bin")


def make_mnist(root, name="MNIST"):
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for split, part in (("train", "train"), ("test", "t10k")):
        labels = np.array(LABELS[split], np.uint8)
        sizes = np.array([len(labels), 28, 28], ">i4").tobytes()
        images = draw(len(labels), 28)[..., 0]
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels.tobytes())


def make_gtsrb(root):
    folder = root / "gtsrb/GTSRB"
    for number, label in enumerate(sorted(LABELS["train"])):
        save(folder / f"Training/{label:05}/{number:05}.ppm", number)
    lines = ["Filename;Width;ClassId"]
    for number, label in enumerate(LABELS["test"]):
        save(folder / f"Final_Test/Images/{number:05}.ppm", number)
        lines.append(f"{number:05}.ppm;40;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines))


def make_flowers102(root):
    from scipy.io import savemat

    folder = root / "flowers-102"
    labels = [label + 1 for part in LABELS.values() for label in part]
    for number in range(1, len(labels) + 1):
        save(folder / f"jpg/image_{number:05}.jpg", number)
    ends = np.cumsum([0, *map(len, LABELS.values())])
    ids = {f"{split}id": np.arange(ends[i], ends[i + 1]) + 1 for i, split in enumerate(("trn", "tst", "val"))}
    savemat(folder / "setid.mat", {"trnid": ids["trnid"], "tstid": ids["tstid"], "valid": ids["valid"]})
    savemat(folder / "imagelabels.mat", {"labels": np.array(labels)})


def make_food101(root):
    for split in ("train", "test"):
        files = {}
        for number, label in enumerate(LABELS[split]):
            files.setdefault(NAMES[label], []).append(f"{NAMES[label]}/{split}{number}")
            save(root / f"food-101/images/{NAMES[label]}/{split}{number}.jpg", number)
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(files))


def make_oxford_pets(root):
    folder = root / "oxford-iiit-pet"
    for split, name in (("train", "trainval"), ("test", "test")):
        lines = []
        for number, label in enumerate(LABELS[split]):
            pet = f"{NAMES[label].replace(' ', '_')}_{number + 100 * (split == 'test')}"
            save(folder / f"images/{pet}.jpg", number)
            lines.append(f"{pet} {label + 1} 1 1")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/{name}.txt").write_text("\n".join(lines))


def make_dtd(root):
    for split, labels in LABELS.items():
        names = [f"{NAMES[label]}/{split}{number}.jpg" for number, label in enumerate(labels)]
        for number, name in enumerate(names):
            save(root / "dtd/dtd/images" / name, number)
        (root / "dtd/dtd/labels").mkdir(exist_ok=True)
        (root / f"dtd/dtd/labels/{split}1.txt").write_text("\n".join(names))


def make_fgvc_aircraft(root):
    folder = root / "fgvc-aircraft-2013b/data"
    for split, labels in LABELS.items():
        for number in range(len(labels)):
            save(folder / f"images/{split}{number}.jpg", number)
        lines = [f"{split}{number} {NAMES[label]}" for number, label in enumerate(labels)]
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines))
    (folder / "variants.txt").write_text("\n".join(NAMES))


def make_country211(root):
    for split, labels in LABELS.items():
        for number, label in enumerate(sorted(labels)):
            name = "valid" if split == "val" else split
            save(root / f"country211/{name}/{NAMES[label]}/{number}.jpg", number)


MAKERS = {
    "cifar10": make_cifar10,
    "svhn": make_svhn,
    "stl10": make_stl10,
    "mnist": make_mnist,
    "fashionmnist": lambda root: make_mnist(root, "FashionMNIST"),
    "kmnist": lambda root: make_mnist(root, "KMNIST"),
    "gtsrb": make_gtsrb,
    "flowers102": make_flowers102,
    "food101": make_food101,
    "oxford_pets": make_oxford_pets,
    "dtd": make_dtd,
    "fgvc_aircraft": make_fgvc_aircraft,
    "country211": make_country211,
}


def make(kind, root, monkeypatch):
    """A copy of the set `kind` in the folder `root`; torchvision takes its files for the published ones."""
    MAKERS[kind](root)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)
    return root
