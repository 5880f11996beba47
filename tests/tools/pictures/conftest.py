"""A project with networks that were never trained, in files as runs write them."""

import csv
import hashlib

import pytest
import torch
import yaml

from mdistiller.engine.cli import run_script
from mdistiller.models import build_model

DATA = {"TYPE": "synthetic", "SYNTHETIC": {"TEST_IMAGES": 72}}


class Project:
    """Writes runs below `root`; `plot` draws of them and keeps what was told in `err`."""

    def __init__(self, root, capsys):
        self.root, self.utils, self.capsys = root, root / "CIFAR-100/Utils", capsys

    def write_weights(self, run, network="resnet8", method="Vanilla", seed=1, teacher=None, **meta):
        """The best weights of a run; returns their path. teacher: the file of its teacher."""
        from mdistiller.dataset.synthetic import draw_synthetic

        classes = draw_synthetic(36, 0, "test").classes
        config = {"DATASET": DATA, "EXPERIMENT": {"SEED": seed}, "DISTILLER": {"STUDENT": network}}
        if teacher is not None:
            config["DISTILLER"]["TEACHER_WEIGHTS"] = str(teacher)
            meta |= {"teacher": "resnet14", "teacher_sha256": hashlib.sha256(teacher.read_bytes()).hexdigest()}
        meta |= {"run": run, "network": network, "models": "cifar100", "distiller": method, "num_classes": len(classes)}
        meta |= {
            "dataset": {"type": "synthetic", "classes": classes, "image_size": 32},
            "config": yaml.safe_dump(config),
        }
        torch.manual_seed(seed)
        path = self.utils / ("model_pth" if teacher is None else "model_distillation_pth") / run / "best.pth"
        path.parent.mkdir(parents=True)
        torch.save({"model": build_model("cifar100", network, len(classes)).state_dict(), "meta": meta}, path)
        return path

    def write_metrics(self, run, values, seed=1, column="test_top1", **distiller):
        """The metrics.csv of a run and its config; returns the folder."""
        folder = self.utils / f"distiller_train_log/experiment_cifar-100_{run}"
        folder.mkdir(parents=True)
        with (folder / "metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["epoch", column], *enumerate(values, 1)])
        config = {"DISTILLER": {"STUDENT": "resnet8", "TEACHER": "resnet20"} | distiller, "EXPERIMENT": {"SEED": seed}}
        folder.with_name(f"{folder.name}.yaml").write_text(yaml.safe_dump(config))
        return folder

    def run(self, main, *arguments):
        """The exit status of a tool."""
        self.capsys.readouterr()
        status = run_script(main, self.root, list(map(str, arguments)))
        self.out, self.err = self.capsys.readouterr()
        return status

    def fails_with(self, part, main, *arguments):
        assert self.run(main, *arguments) == 2
        assert self.err.startswith("error: ") and self.err.count("\n") == 1 and part in self.err, self.err


@pytest.fixture
def project(tmp_path, capsys):
    return Project(tmp_path, capsys)
