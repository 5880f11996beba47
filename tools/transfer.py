"""How well what networks have learned carries over to other data: a linear classifier on their frozen features.

Each image of the other data set is scaled to the size, and normalised by the numbers, of the network's own images, and
its `pooled_feat` is computed once, without augmentation. On those of the training images a linear classifier is trained
in memory: 100 epochs of SGD, batch 64, learning rate 0.1 (times 0.1 after epochs 30, 60, 90), Nesterov momentum 0.9, no
weight decay. Reported is its last epoch on the test images.
"""

import sys
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file, beside which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import torch.nn.functional as F

from mdistiller.checks import SEED, whole
from mdistiller.dataset import DATASETS, build_data, fill_defaults
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.engine import bounds
from mdistiller.engine import cfg as config
from mdistiller.engine.cli import run_script
from mdistiller.engine.effects import check_evaluation
from mdistiller.engine.ending import tell
from mdistiller.engine.flags import PAIRS_HELP, FlagParser, names_and_pairs
from mdistiller.engine.launch import select_device
from mdistiller.engine.metrics import count_correct
from mdistiller.engine.networks import label
from mdistiller.engine.outputs import outputs_of
from mdistiller.engine.runs import PROJECT, shown
from mdistiller.engine.students import MOST_CLASSES, Reader, read_student
from mdistiller.engine.tables import UNKNOWN, WIDTH, align, write_csv
from mdistiller.engine.values import dump
from mdistiller.errors import UserError, printable
from tools.pictures.inputs import weights_at

EPOCHS, BATCH_SIZE, LR, DECAY, STAGES, MOMENTUM = 100, 64, 0.1, 0.1, (30, 60, 90), 0.9
HEADER = "student", "method", "trained on", "features", "top-1", "top-5", "file"
NUMBERS = "features", "top-1", "top-5"


class Transfer(NamedTuple):
    """What a network reaches on the other data; features: channels of its `pooled_feat`; top1, top5: percent."""

    student: str
    method: str
    trained_on: str
    features: int
    top1: float
    top5: float
    file: Path


def parse(arguments=None):
    parser = FlagParser(prog="transfer", description=__doc__)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="weights, or a run by its name or folder")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help=f"of the other data: {PAIRS_HELP}")
    parser.add_argument("--dataset", required=True, choices=tuple(DATASETS), metavar="TYPE", help="the other data")
    parser.add_argument("--model", metavar="NAME", help="the files' network, where they do not tell it")
    parser.add_argument("--num_classes", type=int, help="that the files score, where they do not tell it")
    parser.add_argument("--csv", metavar="FILE", help="write the table to a CSV file too")
    parser.add_argument("--seed", type=int, default=2021, help="of the order of images, and of the first weights")
    parser.add_argument("--device", help="cpu, cuda … (default CUDA where there is a GPU, else the CPU)")
    flags = parser.parse(arguments)
    flags.checkpoints, flags.pairs = names_and_pairs([*flags.checkpoints, *flags.pairs])
    if not flags.checkpoints:
        raise UserError("no weights are named; name some, by file, folder or run")
    if flags.num_classes is not None:
        whole(1, MOST_CLASSES).require("--num_classes", flags.num_classes)
    SEED.require("--seed", flags.seed)
    check_evaluation(flags.pairs[::2])
    if "DATASET.TYPE" in flags.pairs[::2]:
        raise UserError("DATASET.TYPE has no effect beside --dataset; leave it out")
    return flags


class Probes:
    """Probes networks as `flags` say; reads images of one size and normalisation once."""

    def __init__(self, flags, project):
        self.flags, self.project = flags, project
        self.reader = Reader(flags.model, [], project)
        self.data_sets = {}

    def probe(self, text):
        """The `Transfer` of the network that `text` means."""
        path = weights_at(text, self.project)
        student, *_ = read_student(self.reader, path, self.flags.num_classes)
        data = self.data_for(student.transform)
        network = student.network.to(self.flags.device).to(memory_format=torch.channels_last)
        train, test = (outputs_of(network, batches, f"Features of {path.name}") for batches in (data.train, data.test))
        if not (train.pooled_feat.isfinite().all() and test.pooled_feat.isfinite().all()):
            raise UserError(f"the features of {path} are not finite; name a network whose training went well")
        parts = [tensor.to(self.flags.device) for each in (train, test) for tensor in (each.pooled_feat, each.target)]
        top1, top5 = linear_probe(*parts, data.num_classes, self.flags.seed)
        meta, kind = student.meta, student.meta.get("dataset", {}).get("type")
        name = label(meta["network"], meta.get("arguments", "{}")) if "network" in meta else self.flags.model
        words = name or path.stem, meta.get("distiller") or UNKNOWN, kind or UNKNOWN
        return Transfer(*words, train.pooled_feat.shape[1], top1, top5, path)

    def data_for(self, transform):
        """Training and test images of the other data, as a network with `transform` sees images."""
        cfg = config.config_for(find_method(PLAIN_TRAINING))
        cfg.DATASET.TYPE, cfg.DATASET.AUGMENT = self.flags.dataset, "none"
        cfg.DATASET.IMAGE_SIZE = transform.image_size
        cfg.DATASET.MEAN, cfg.DATASET.STD = tuple(transform.mean), tuple(transform.std)
        config.merge_pairs(cfg, self.flags.pairs)
        fill_defaults(cfg.DATASET)
        bounds.check(cfg, find_method(PLAIN_TRAINING))
        key = dump(cfg.DATASET)
        if key not in self.data_sets:
            self.data_sets[key] = build_data(cfg, self.flags.device, self.flags.seed)
        if self.data_sets[key].num_classes < 2:
            raise UserError(f"the data has one class only, {self.data_sets[key].classes[0]!r}; expected two or more")
        return self.data_sets[key]


def linear_probe(features, targets, test_features, test_targets, classes, seed, epochs=EPOCHS):
    """Top-1 and top-5 accuracy, in percent, on test features of a linear classifier trained on others.

    features: float32 (images, channels); targets: int64 (images,); all on one device. Source of the recipe: the release
    of Yang et al., Hierarchical Self-supervised Augmented Knowledge Distillation, IJCAI 2021 (eval_rep.py); the
    experiment is that of Tian et al., Contrastive Representation Distillation, ICLR 2020, section 4.1.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = 0.01 * torch.randn(classes, features.shape[1], generator=generator)
    weight, bias = weight.to(features.device).requires_grad_(), features.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], LR, MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, STAGES, DECAY)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for rows in order.split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(F.linear(features[rows], weight, bias), targets[rows]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        correct = count_correct(F.linear(test_features, weight, bias), test_targets)
    return tuple((100 * correct / len(test_targets)).tolist())


def table_of(found):
    rows = [
        (*map(printable, row[:3]), str(row.features), f"{row.top1:.2f}", f"{row.top5:.2f}", printable(shown(row.file)))
        for row in found
    ]
    return align([HEADER, *rows], NUMBERS, WIDTH)


def main(project, arguments=None):
    flags = parse(arguments)
    flags.device = select_device(flags.device)
    probes, found, errors = Probes(flags, project), [], {}
    for text in dict.fromkeys(flags.checkpoints):
        try:
            found.append(probes.probe(text))
        except UserError as error:
            errors[str(error)] = error
    if found:
        print(f"Linear classifiers on frozen features, top-1 and top-5 on {flags.dataset} in percent")
        print(table_of(sorted(found, key=lambda row: -row.top1)), flush=True)
        if flags.csv:
            write_csv(flags.csv, [title.replace("-", "").replace(" ", "_") for title in HEADER], found)
    if errors:
        *others, last = errors.values()
        for other in others:
            tell(f"error: {other}")
        raise last


if __name__ == "__main__":
    sys.exit(run_script(main, PROJECT))
