"""ImageNet and Tiny-ImageNet from flags to an evaluated student, on real photographs."""

import hashlib
import http.server
import threading

import pytest
import torch
import torchvision
import yaml
from PIL import Image

from mdistiller.dataset.decoding import decode
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import centre_crop
from mdistiller.distillers import build_distiller
from mdistiller.engine import teachers
from mdistiller.engine.cfg import CFG, merge
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from mdistiller.engine.runs import PROJECT
from mdistiller.engine.values import read_yaml
from mdistiller.models import build_model, model_names
from tests.engine.conftest import Script

SMALL = "SOLVER.BATCH_SIZE 3 SOLVER.EPOCHS 1 SOLVER.LR 1e-5 DATASET.IMAGE_SIZE 64 DATASET.NUM_WORKERS 0".split()


@pytest.fixture
def imagenet(tmp_path):
    return Script(tmp_path, IMAGENET)


@pytest.fixture
def data(photographs):
    return ["DATASET.ROOT", photographs, *SMALL]


@pytest.fixture(scope="session")
def resnet34(tmp_path_factory):
    """Random weights of torchvision's own ResNet34, for ImageNet's 1000 classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torchvision") / "resnet34-b627a593.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


def test_published_indices_keep_their_places():
    assert IMAGENET.students[:2] == ("ResNet18", "MobileNetV1")
    assert IMAGENET.teachers[:2] == ("ResNet34", "ResNet50")
    published = ("KD", "DKD", "CLKD", "MLKD", "AT", "SKD", "ReviewKD", "OFD", "RKD", "CRD", "FitNet", "SDD")
    assert IMAGENET.published == published


def test_every_network_and_method_has_an_index():
    assert sorted(IMAGENET.students) == sorted(IMAGENET.teachers) == sorted(model_names("imagenet"))
    assert sorted(IMAGENET.distillers.values()) == sorted(CIFAR100.distillers.values())


def test_every_published_method_has_a_preset():
    assert {*IMAGENET.published} <= {path.stem for path in (PROJECT / "configs" / "imagenet").glob("*.yaml")}


@pytest.mark.parametrize(
    ("flags", "pair", "method"),
    [
        ("--selected_distiller 0", "ResNet34_ResNet18", "KD"),
        ("--selected_distiller 5", "ResNet34_ResNet18", "SKD"),
        ("--selected_teacher 1 --selected_student 1", "ResNet50_MobileNetV1", "KD"),
        ("--selected_distiller CRD", "ResNet34_ResNet18", "CRD"),
        ("--selected_distiller FitNet --selected_student 1", "ResNet34_MobileNetV1", "FitNet"),
        ("--selected_distiller SDD", "ResNet34_ResNet18", "SDD"),
        ("--selected_distiller OFD --selected_student MobileNetV2", "ResNet34_MobileNetV2", "OFD"),
    ],
)
def test_pair_trains_and_its_student_is_found(imagenet, data, tmp_path, flags, pair, method):
    teacher, student = pair.split("_")
    weights = tmp_path / "teacher.pth"
    torch.save(build_model("imagenet", teacher, 6).state_dict(), weights)
    few = ["CRD.NCE.K", 4] if method == "CRD" else []
    run = imagenet(distillation_main, *flags.split(), "--teacher_weights", weights, *data, *few)
    assert run.status == 0, run.err
    assert f"Running main with student={student}, teacher={teacher}, distiller={method}" in run.out
    logs, weights = (
        ("SDD_train_log", "SDD_model_pth") if method == "SDD" else ("distiller_train_log", "model_distillation_pth")
    )
    (log,) = imagenet.utils.glob(f"{logs}/experiment_imagenet_*_{pair}_{method}.log")
    assert "Train Loss: " in log.read_text() and "Learning Time: " in log.read_text()
    (best,) = imagenet.utils.glob(f"{weights}/*_{pair}_{method}/best.pth")
    assert (imagenet.utils / weights / f"best_model_weights_{student}_{method}.pth").is_file()
    assert imagenet(evaluation_main, "--dataset", "imagenet").status == 0, imagenet.err
    assert imagenet.out.count(student) >= 2 and best.parent.name in imagenet.out


def test_students_are_found_without_naming_the_data_set(imagenet, data):
    assert imagenet(training_main, *data).status == 0, imagenet.err
    (imagenet.utils / "model_pth").rename(imagenet.utils / "model_distillation_pth")
    assert imagenet(evaluation_main).status == 0, imagenet.err
    assert "ResNet18" in imagenet.out
    imagenet(evaluation_main, "--dataset", "cifar100").fails_with("no students on cifar100")


def test_a_teacher_of_all_classes_serves_a_part_of_imagenet(imagenet, data, resnet34):
    run = imagenet(distillation_main, "--teacher_weights", resnet34, *data)
    assert run.status == 0, run.err
    (best,) = imagenet.utils.glob("model_distillation_pth/*/best.pth")
    meta = torch.load(best, weights_only=True)["meta"]
    assert meta["num_classes"] == 6 and meta["dataset"]["classes"][0] == "n01440764"


def test_the_default_teacher_is_torchvisions_from_the_cache(imagenet, data, resnet34, cache, offline):
    cache.mkdir(parents=True)
    (cache / resnet34.name).symlink_to(resnet34)
    run = imagenet(distillation_main, *data)
    assert run.status == 0, run.err
    assert "Teacher's weights:" in run.out and f"{resnet34.name}\n" in run.out


def test_on_other_classes_the_default_teacher_is_what_was_trained_on_them(imagenet, photographs, data, offline):
    for split in ("train", "val"):
        for number, folder in enumerate(sorted((photographs / split).iterdir())):
            folder.rename(photographs / split / f"class_{number}")
    for place in (photographs, photographs.parent / "fewer"):  # the published name is the first's
        assert imagenet(training_main, "--selected_model", "ResNet34", *data, "DATASET.ROOT", place).status == 0
        if place == photographs:
            copy_tree_of(photographs, photographs.parent / "fewer", 5)
    for place in (photographs, photographs.parent / "fewer"):
        run = imagenet(distillation_main, *data, "DATASET.ROOT", place)
        assert run.status == 0, run.err


def copy_tree_of(source, target, count):
    """The first `count` classes of a tree, by links."""
    for split in ("train", "val"):
        (target / split).mkdir(parents=True)
        for folder in sorted((source / split).iterdir())[:count]:
            (target / split / f"other_{folder.name}").symlink_to(folder)


def test_weights_of_all_imagenet_are_not_taken_for_a_thousand_other_classes(imagenet, photographs, resnet34, tmp_path):
    photograph = next(photographs.glob("val/*/*"))
    for number in range(1000):
        folder = tmp_path / "numbers/val" / str(number)
        folder.mkdir(parents=True)
        (folder / "1.JPEG").symlink_to(photograph)
    flags = ["--dataset", "imagenet", "--model", "ResNet34", "--checkpoint", resnet34]
    imagenet(evaluation_main, *flags, "DATASET.ROOT", tmp_path / "numbers").fails_with("'n01440764', not '0'")


def test_weights_without_a_classifier_are_one_line(imagenet, photographs, resnet34, tmp_path):
    weights = torch.load(resnet34, weights_only=True)
    torch.save({key: value for key, value in weights.items() if not key.startswith("fc")}, tmp_path / "body.pth")
    flags = ["--dataset", "imagenet", "--model", "ResNet34", "--checkpoint", tmp_path / "body.pth"]
    imagenet(evaluation_main, *flags, "DATASET.ROOT", photographs).fails_with("2 entries missing", "fc.weight")


def test_the_order_of_a_files_entries_does_not_matter(imagenet, photographs, resnet34, tmp_path):
    weights = torch.load(resnet34, weights_only=True)
    torch.save(dict(reversed(weights.items())), tmp_path / "reversed.pth")
    flags = ["--dataset", "imagenet", "--model", "ResNet34", "--checkpoint", tmp_path / "reversed.pth"]
    assert imagenet(evaluation_main, *flags, "DATASET.ROOT", photographs).status == 0, imagenet.err


def test_a_last_batch_of_one_image_that_no_norm_can_take_is_one_line(imagenet, data):
    small = ["SOLVER.BATCH_SIZE", "5", "DATASET.IMAGE_SIZE", "32"]
    imagenet(training_main, *data, *small).fails_with("one image", "SOLVER.BATCH_SIZE")


def test_offline_one_line_says_which_file_to_put_where(imagenet, data, cache, offline):
    imagenet(distillation_main, *data).fails_with(
        "no route to host",
        "https://download.pytorch.org/models/resnet34-b627a593.pth",
        str(cache / "resnet34-b627a593.pth"),
        "--teacher_weights",
    )
    assert not list(imagenet.utils.rglob("*.log"))


class Server:
    """Serves one file on this machine."""

    def __init__(self, content):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"


def test_missing_pretrained_weights_are_downloaded_and_verified(cache, monkeypatch):
    content = b"weights"
    name = f"resnet34-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server = Server(content)
    monkeypatch.setattr(teachers, "_url", lambda network: f"{server.address}/{name}")
    path = teachers.pretrained_file("ResNet34")
    assert path == cache / name
    teachers.fetch_pretrained(path, "ResNet34")
    assert path.read_bytes() == content


def test_a_damaged_download_leaves_nothing_behind(cache, monkeypatch):
    server = Server(b"an error page")
    monkeypatch.setattr(teachers, "_url", lambda name: f"{server.address}/resnet34-00000000.pth")
    path = teachers.pretrained_file("ResNet34")
    with pytest.raises(teachers.UserError, match=r"resnet34-00000000\.pth"):
        teachers.fetch_pretrained(path, "ResNet34")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("name", teachers.TORCHVISION_NAMES)
def test_pretrained_weights_have_torchvisions_names(name):
    network = getattr(torchvision.models, teachers.TORCHVISION_NAMES[name])()
    assert network.state_dict().keys() == build_model("imagenet", name, 1000).state_dict().keys()


def test_a_model_without_a_checkpoint_is_the_pretrained_one(imagenet, photographs, resnet34, cache, offline):
    cache.mkdir(parents=True)
    (cache / resnet34.name).symlink_to(resnet34)
    run = imagenet(evaluation_main, "--dataset", "imagenet", "--model", "resnet34", "DATASET.ROOT", photographs)
    assert run.status == 0, run.err
    assert run.out.splitlines()[1].split()[-1] == "6"


def test_a_network_without_pretrained_weights_asks_for_a_checkpoint(imagenet):
    imagenet(evaluation_main, "--dataset", "imagenet", "--model", "MobileNetV1").fails_with(
        "MobileNetV1", "--checkpoint"
    )


def test_a_part_of_imagenet_is_evaluated_against_all_classes(imagenet, photographs, tmp_path):
    network = build_model("imagenet", "ResNet18", 1000)
    torch.nn.init.zeros_(network.fc.weight)
    torch.nn.init.zeros_(network.fc.bias)
    network.fc.bias.data[10] = 5.0  # ImageNet's class 10 is the sample's second
    torch.save(network.state_dict(), tmp_path / "all.pth")
    pairs = ["DATASET.ROOT", photographs, "DATASET.IMAGE_SIZE", "32"]
    flags = ["--dataset", "imagenet", "--model", "ResNet18", "--checkpoint", tmp_path / "all.pth"]
    assert imagenet(evaluation_main, *flags, *pairs).status == 0, imagenet.err
    top1, _, loss, images = imagenet.out.splitlines()[2].split()[-4:]  # after how it was tested, and the heads
    assert (top1, images) == ("16.67", "6")
    expected = torch.nn.functional.cross_entropy(
        network.fc.bias.detach().expand(6, -1), torch.tensor([0, 10, 20, 30, 40, 50])
    )
    assert float(loss) == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("count", [999, 995, 1001])
def test_nearly_a_thousand_classes_are_taken_for_a_mistake(imagenet, photographs, count, tmp_path):
    photograph = next(photographs.glob("val/*/*"))
    for split in ("train", "val"):
        for number in range(count):
            folder = tmp_path / "many" / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            (folder / "1.JPEG").symlink_to(photograph)
    flags = ["--selected_model", "0", "DATASET.ROOT", tmp_path / "many"]
    imagenet(training_main, *flags).fails_with(f"{count} classes, expected 1000", f"DATASET.NUM_CLASSES {count}")


def test_a_number_of_classes_that_is_meant_is_accepted(imagenet, data):
    assert imagenet(training_main, *data, "DATASET.NUM_CLASSES", 6).status == 0, imagenet.err
    imagenet(training_main, *data, "DATASET.NUM_CLASSES", 7).fails_with("6 classes, expected 7")


def test_classes_that_differ_between_train_and_val_are_named(imagenet, photographs, data):
    folder = sorted((photographs / "val").iterdir())[2]
    folder.unlink()
    imagenet(training_main, *data).fails_with("6 classes in train and 5 in test", folder.name)


def test_a_broken_jpeg_stops_the_run_with_its_name(imagenet, photographs, data):
    broken = photographs / "train/n01440764"
    broken.unlink()
    broken.mkdir()
    (broken / "n01440764_1.JPEG").write_bytes(b"\xff\xd8\xff\xe0 cut")
    imagenet(training_main, *data, "DATASET.NUM_WORKERS", 2).fails_with(str(broken / "n01440764_1.JPEG"))


def test_mdistillers_imagenet_config_means_the_same(imagenet, photographs, tmp_path):
    config = {
        "EXPERIMENT": {"NAME": "", "TAG": "kd,res34,res18", "PROJECT": "imagenet_baselines"},
        "DISTILLER": {"TYPE": "NONE", "STUDENT": "ResNet18"},
        "SOLVER": {"BATCH_SIZE": 512, "EPOCHS": 1, "LR": 0.001},
        "DATASET": {"TYPE": "imagenet", "NUM_WORKERS": 32, "TEST": {"BATCH_SIZE": 128}},
    }
    (tmp_path / "kd.yaml").write_text(yaml.dump(config))
    run = imagenet(training_main, "--cfg", tmp_path / "kd.yaml", "DATASET.ROOT", photographs)
    assert run.status == 0, run.err
    (saved,) = imagenet.utils.glob("model_train_log/*.yaml")
    dataset = yaml.safe_load(saved.read_text())["DATASET"]
    assert (dataset["IMAGE_SIZE"], dataset["MEAN"], dataset["STD"]) == (
        224,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )


@pytest.fixture
def tiny_imagenet(photographs, tmp_path):
    """Tiny-ImageNet's layout, of the photographs at 64 pixels: train/<wnid>/images, a flat val with annotations."""
    root, lines = tmp_path / "tiny-imagenet-200", []
    (root / "val/images").mkdir(parents=True)
    for number, path in enumerate(sorted(photographs.glob("val/*/*"))):
        wnid = path.parent.name
        image = Image.open(path).convert("RGB").resize((64, 64))
        (root / "train" / wnid / "images").mkdir(parents=True)
        for copy in range(2):
            image.save(root / "train" / wnid / "images" / f"{wnid}_{copy}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
        image.save(root / "val/images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    (root / "test/images").mkdir(parents=True)  # which has no labels
    image.save(root / "test/images/test_0.JPEG")
    return root


def test_tiny_imagenet_trains_and_evaluates(script, tiny_imagenet):
    data = ["DATASET.TYPE", "tiny_imagenet", "DATASET.ROOT", tiny_imagenet, "SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 1]
    assert script(training_main, "--selected_model", "resnet8", *data).status == 0, script.err
    flags = "--selected_teacher resnet8 --selected_student MobileNetV2 --selected_distiller FitNet".split()
    assert script(distillation_main, *flags, *data).status == 0, script.err
    (best,) = script.utils.glob("model_distillation_pth/*/best.pth")
    weights = torch.load(best, weights_only=True)
    meta = weights["meta"]
    assert (meta["dataset"]["type"], meta["dataset"]["image_size"]) == ("tiny_imagenet", 64)
    assert (meta["dataset"]["train_images"], meta["dataset"]["test_images"]) == (12, 6)
    assert meta["models"] == "tiny_imagenet" and weights["model"]["conv2.weight"].shape == (6, 1280, 1, 1)
    assert script(evaluation_main, "--dataset", "tiny_imagenet").status == 0, script.err
    assert "MobileNetV2" in script.out
    script(evaluation_main, "--dataset", "imagenet").fails_with("no students on imagenet")


@pytest.mark.parametrize("models", ["cifar100", "tiny_imagenet"])
def test_a_file_on_tiny_imagenet_is_evaluated_by_the_network_that_it_names(script, tiny_imagenet, models):
    path = script.utils / "best.pth"
    data = {"type": "tiny_imagenet"}
    state_dict = build_model(models, "MobileNetV2", 6).state_dict()
    torch.save({"model": state_dict, "meta": {"network": "MobileNetV2", "models": models, "dataset": data}}, path)
    assert script(evaluation_main, "--checkpoint", path, "DATASET.ROOT", tiny_imagenet).status == 0, script.err


def test_bare_weights_on_tiny_imagenet_are_taken_for_mdistillers(script, tiny_imagenet):
    path = script.utils / "ckpt.pth"
    torch.save({"model": build_model("tiny_imagenet", "MobileNetV2", 6).state_dict()}, path)
    flags = ["--dataset", "tiny_imagenet", "--checkpoint", path, "--model", "MobileNetV2"]
    assert script(evaluation_main, *flags, "DATASET.ROOT", tiny_imagenet).status == 0, script.err


def test_imagenets_networks_take_tiny_imagenet(imagenet, tiny_imagenet):
    data = ["DATASET.TYPE", "tiny_imagenet", "DATASET.ROOT", tiny_imagenet, "SOLVER.BATCH_SIZE", 4, "SOLVER.EPOCHS", 1]
    assert imagenet(training_main, *data, "SOLVER.LR", "0.001").status == 0, imagenet.err


@pytest.mark.parametrize("pair", [("ResNet34", "ResNet18"), ("ResNet50", "MobileNetV1")], ids="->".join)
def test_student_learns_photographs_from_a_teacher_that_knows_them(shared, pair):
    files = find_images(shared / "data/imagenet_sample", "test")
    image = torch.cat([centre_crop(decode(files.path(row), 64), 64) for row in range(16)]).float().div(255)
    image = image.sub(0.45).div(0.225).contiguous(memory_format=torch.channels_last)
    target = files.targets[:16]
    torch.manual_seed(0)
    teacher, student = (build_model("imagenet", name, 100) for name in pair)
    with torch.no_grad():
        pooled = teacher.eval()(image)[1]["pooled_feat"].double()
        wanted = 10 * torch.nn.functional.one_hot(target, 100).double()
        teacher.fc.weight.copy_(torch.linalg.lstsq(pooled, wanted).solution.T)
        torch.nn.init.zeros_(teacher.fc.bias)
    cfg = CFG.clone()
    merge(cfg, read_yaml(PROJECT / "configs/imagenet/KD.yaml"), "preset")
    distiller = build_distiller("KD", student, teacher, cfg).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(60):
        logits, losses = distiller(image=image, target=target, epoch=1)
        if (cross_entropy := torch.nn.functional.cross_entropy(logits, target)) < 0.1:
            break
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert cross_entropy < 0.1
