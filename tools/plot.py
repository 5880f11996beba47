"""Draw a picture of finished runs, networks or costs: PNG or SVG.

curves: what runs reached epoch by epoch, from metrics.csv; runs that differ in their seeds are a mean with a band.
correlation: how classes go together in a student's teacher, in the student, and the difference.
embedding: the pooled features of test images in a plane. reliability: how often networks are right where they say so.
gradcam: where on photographs networks find what speaks for a class. cost: the time of a step by method, measured now.

A run or a network is named by a file, a run's folder or name, or the names in a published one, such as resnet20_KD.
"""

import sys
import warnings
from pathlib import Path

if not __package__:  # run as a file, beside which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mdistiller.checks import whole
from mdistiller.engine.cli import run_script
from mdistiller.engine.flags import PAIRS_HELP, FlagParser, names_and_pairs
from mdistiller.engine.launch import select_device
from mdistiller.engine.runs import PROJECT
from mdistiller.errors import UserError
from tools.pictures import correlation, cost, curves, embedding, gradcam, reliability, style

OF_NETWORKS = {"model", "pairs", "device"}
# What draws each picture, and the flags that it reads.
PICTURES = {
    "curves": (curves.draw, {"metric"}),
    "correlation": (correlation.draw, OF_NETWORKS | {"teacher_weights"}),
    "embedding": (embedding.draw, OF_NETWORKS | {"method", "classes"}),
    "reliability": (reliability.draw, OF_NETWORKS | {"teacher_weights"}),
    "gradcam": (gradcam.draw, OF_NETWORKS | {"teacher_weights", "images"}),
    "cost": (cost.draw, {"teacher", "student", "batch_size", "device"}),
}
CHECKS = {
    "classes": whole(1, 60),
    "images": whole(1, 20),
    "batch_size": whole(1, 65_536),
}
MOST_INPUTS = 20


def parse(arguments=None):
    parser = FlagParser(prog="plot", description=__doc__)
    parser.add_argument("picture", choices=PICTURES)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="runs, weights or images; of cost: methods")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help=PAIRS_HELP)
    parser.add_argument("--output", required=True, metavar="FILE", help="a name that ends in .png or .svg")
    parser.add_argument("--metric", help="of curves: columns of metrics.csv, by commas (default test_top1)")
    parser.add_argument(
        "--teacher_weights",
        metavar="FILE",
        help="the teacher, where not the student's own; reliability, gradcam: add it",
    )
    parser.add_argument("--model", metavar="NAME", help="the files' network, where they do not tell it")
    parser.add_argument("--method", choices=embedding.METHODS, help="of embedding (default tsne)")
    parser.add_argument("--classes", type=int, help="of embedding: shown, evenly spread (default 8)")
    parser.add_argument(
        "--images", type=int, help="of gradcam: test images, a class each, where none are named (default 4)"
    )
    parser.add_argument("--teacher", metavar="NAME", help="of cost (default resnet56)")
    parser.add_argument("--student", metavar="NAME", help="of cost (default resnet20)")
    parser.add_argument("--batch_size", type=int, help="of cost (default 64)")
    parser.add_argument("--device", help="cpu, cuda … (default CUDA where there is a GPU, else the CPU)")
    flags = parser.parse(arguments)
    flags.inputs, flags.pairs = names_and_pairs([*flags.inputs, *flags.pairs])
    check(flags)
    return flags


def check(flags):
    """Raise UserError where flags do not go together, or no picture can be made of them."""
    _, reads = PICTURES[flags.picture]
    given = {name for name, value in vars(flags).items() if value not in (None, [])} - {"picture", "inputs", "output"}
    if surplus := sorted(given - reads):
        name = flags.pairs[0] if surplus[0] == "pairs" else f"--{surplus[0]}"
        raise UserError(f"{name} has no effect on {flags.picture}; leave it out")
    for name, known in CHECKS.items():
        if (value := getattr(flags, name)) is not None:
            known.require(f"--{name}", value)
    if not flags.inputs and flags.picture != "cost":
        what = "runs" if flags.picture == "curves" else "files of weights"
        raise UserError(f"{flags.picture} needs {what}; name some, by file, folder or run")
    if len(flags.inputs) > MOST_INPUTS:
        raise UserError(f"{len(flags.inputs)} inputs do not fit into one picture; name at most {MOST_INPUTS}")
    style.check_output(flags.output)


def main(project, arguments=None):
    flags = parse(arguments)
    flags.device = select_device(flags.device)
    with style.matplotlib().rc_context(style.LOOKS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font has not
        figure = PICTURES[flags.picture][0](flags, project)
        style.save(figure, flags.output)
    print(f"Wrote {flags.output}")


if __name__ == "__main__":
    sys.exit(run_script(main, PROJECT))
