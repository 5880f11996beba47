"""The networks that pictures are of, with the images that they were tested on."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.engine.evaluate import Evaluator
from mdistiller.engine.index import BENCHMARKS, CIFAR100
from mdistiller.engine.networks import SEPARATOR, label
from mdistiller.engine.outputs import outputs_of
from mdistiller.engine.students import WeightFile, weight_file
from mdistiller.engine.teachers import sha256_of
from mdistiller.engine.values import parse_yaml
from mdistiller.engine.weights import read_meta
from mdistiller.errors import UserError

from .inputs import weights_at


@dataclass(frozen=True)
class Subject:
    """A network on the device, in eval mode, and its test images.

    name: as a legend has it; columns: the logits' of the data's classes, None where these are all, in order.
    """

    name: str
    file: WeightFile
    cfg: CN
    network: nn.Module
    data: Data
    columns: torch.Tensor | None

    def outputs(self):
        """What the network returns for its test images; the targets are columns of the logits."""
        found = outputs_of(self.network, self.data.test, f"Evaluating {self.name}")
        if not (found.logits.isfinite().all() and found.pooled_feat.isfinite().all()):
            raise UserError(f"what {self.file.path} returns is not finite; name a network whose training went well")
        return found if self.columns is None else found._replace(target=self.columns[found.target])


class Subjects:
    """Reads networks; flags: `model`, the name of their network where they do not tell, `pairs`, `device`."""

    def __init__(self, flags, project):
        self.project = project
        self.evaluator = Evaluator(flags.model, flags.pairs, flags.device, project)

    def read(self, path, cfg=None):
        """The subject whose weights are at `path`; cfg: which says the images, where the file does not."""
        file = weight_file(path, CIFAR100.models)
        if cfg is None or "dataset" in file.meta:
            cfg = self.evaluator.config_of(file)
        named = self.evaluator.named(file, cfg)
        data = self.evaluator.data_of(cfg)
        network, _, rows = self.evaluator.network_of(file, cfg, named, data.classes)
        network = network.to(data.test.device).to(memory_format=torch.channels_last).eval()
        name = ", ".join([label(named.name, named.arguments), *how_trained(file.meta)])
        return Subject(name, file, cfg, network, data, None if rows is None else torch.tensor(rows))

    def read_all(self, texts):
        """The subjects of `texts`, of the same test images, each with a name of its own."""
        paths = [weights_at(text, self.project) for text in texts]
        telling = next((path for path in paths if "dataset" in read_meta(path)), None)
        cfg = telling and self.evaluator.config_of(weight_file(telling, CIFAR100.models))
        found = [self.read(path, cfg) for path in paths]
        for subject in found[1:]:
            check_same_images(found[0], subject)
        return distinct(found)

    def teacher_of(self, student, given):
        """The teacher of `student`, whose file `given` names, or the student's own."""
        path = weights_at(given, self.project) if given else teacher_weights(student.file)
        sha256 = student.file.meta.get("teacher_sha256")
        if not given and sha256 not in (None, sha256_of(path)):
            raise UserError(
                f"{path} has changed since it taught {student.file.path}; name a file with --teacher_weights"
            )
        teacher = self.read(path, student.cfg)
        check_same_images(student, teacher)
        return replace(teacher, name=f"{teacher.name.split(', ')[0]}, teacher")


def how_trained(meta):
    """What a legend says of a network's training, as far as its `meta` tells."""
    method = meta.get("distiller")
    if not isinstance(method, str):
        return []
    plain = find_method(PLAIN_TRAINING).__name__
    return [method.replace(plain, "alone")]


def teacher_weights(file):
    """Where the teacher of the student `file` lay when it was distilled."""
    distiller = parse_yaml(file.meta.get("config", ""), f"the meta of {file.path}").get("DISTILLER")
    path = distiller.get("TEACHER_WEIGHTS") if isinstance(distiller, dict) else None
    advice = "name a file with --teacher_weights"
    if not isinstance(path, str) or not path or not file.meta.get("teacher"):
        raise UserError(f"{file.path} does not tell its teacher's weights; {advice}")
    if SEPARATOR in path:
        raise UserError(f"{file.path} has several teachers; {advice}")
    if not Path(path).is_file():
        raise UserError(f"the teacher of {file.path} is no longer at {path}; {advice}")
    return Path(path)


def check_same_images(first, other):
    """Raise UserError where two subjects were not tested on the same images of the same classes."""
    theirs, ours = other.data.test.image_set, first.data.test.image_set
    if first.data.classes != other.data.classes or not torch.equal(theirs.targets, ours.targets):
        raise UserError(
            f"{other.file.path} is tested on other images than {first.file.path}; name files of the same data, or the "
            f"data, as DATASET.TYPE {next(iter(BENCHMARKS))}"
        )


def distinct(subjects):
    """`subjects`; those of one name get their seeds behind it, and numbers where that is not enough."""
    named = renamed(subjects, map(seed_of, subjects))
    return renamed(named, (str(number) for number, _ in enumerate(named, 1)))


def renamed(subjects, words):
    """`subjects`, each with its word behind its name where others have that name too."""
    times = Counter(subject.name for subject in subjects)
    return [
        replace(subject, name=f"{subject.name}, {word}") if times[subject.name] > 1 else subject
        for subject, word in zip(subjects, words, strict=True)
    ]


def seed_of(subject):
    experiment = parse_yaml(subject.file.meta.get("config", ""), "a meta").get("EXPERIMENT")
    seed = experiment.get("SEED") if isinstance(experiment, dict) else None
    return f"seed {seed}" if seed is not None else "seed unknown"
