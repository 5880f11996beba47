"""Write a student as a file for other programs, and hold what was written against the student.

onnx and torch_export take images and give logits, of any number of images at once. safetensors is the weights and, in
its metadata, what the checkpoint tells: test.py and mdistiller.load_student then need no flags. The file is run on real
images, one and seven at once; it is kept where no logit differs by more than 1e-4, or by 1e-5 of the largest.
"""

import contextlib
import importlib
import io
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if not __package__:  # run as a file, in whose folder Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn

from mdistiller.dataset import DATASETS
from mdistiller.dataset.images import ImageSet, open_image
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.engine.cli import run_script
from mdistiller.engine.layouts import meta_as_texts
from mdistiller.engine.lines import count
from mdistiller.engine.students import Reader, read_student
from mdistiller.engine.values import dump, parse_yaml
from mdistiller.engine.writing import atomic_write
from mdistiller.errors import UserError, printable
from mdistiller.folder_modules import described, is_file_reference
from mdistiller.models.folding import fold_batch_norms
from tools.checkpoints import CheckpointParser, image_files, read, without_pairs

BATCHES = 1, 7  # images at once, when a file is run
TOLERANCE, RELATIVE = 1e-4, 1e-5  # of a logit, or beside the largest one where that allows more
CIFAR100_FOLDER = "cifar-100-python"  # looked for without it, CIFAR-100 would be downloaded


class Logits(nn.Module):
    """`network`, for inference, without its features; of images in 0..1 where `mean` and `std` are given."""

    def __init__(self, network, mean=None, std=None):
        super().__init__()
        self.network, self.is_normalised = fold_batch_norms(network), mean is None
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if values is None else torch.tensor(values).view(3, 1, 1))

    def forward(self, image):
        return self.network(image if self.is_normalised else (image - self.mean) / self.std)[0]


def as_program(network, image):
    shapes = {"image": {0: torch.export.Dim("batch")}}
    return torch.export.export(network.eval(), (image,), dynamic_shapes=shapes, strict=False)


def write_onnx(file, network, image, texts):
    names = {"input_names": ["image"], "output_names": ["logits"]}
    model = torch.onnx.export(as_program(network, image), (image,), dynamo=True, verbose=False, **names).model_proto
    for key, text in texts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    file.write(model.SerializeToString())


def run_onnx(path):
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def write_program(file, network, image, texts):
    content = io.BytesIO()  # it wants a name that ends in .pt2
    torch.export.save(as_program(network, image), content, extra_files=texts)
    file.write(content.getvalue())


def run_program(path):
    return torch.export.load(io.BytesIO(Path(path).read_bytes())).module()


class Format(NamedTuple):
    """A kind of file. packages: that it needs; write, run: make one, and the function of one; snippet: how to use one.

    Those without `write` and `run` hold weights.
    """

    extension: str
    packages: tuple[str, ...]
    snippet: str
    write: Callable[..., None] | None = None
    run: Callable[..., Callable[[torch.Tensor], torch.Tensor]] | None = None


ONNX = (
    'import onnxruntime\nsession = onnxruntime.InferenceSession({})\n(logits,) = session.run(None, {{"image": images}})'
)
PROGRAM = "import torch\nnetwork = torch.export.load({}).module()\nlogits = network(images)"
WEIGHTS = "import mdistiller\nstudent = mdistiller.load_student({})\nlogits, features = student.network(images)"
FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ONNX, write_onnx, run_onnx),
    "torch_export": Format(".pt2", (), PROGRAM, write_program, run_program),
    "safetensors": Format(".safetensors", ("safetensors",), WEIGHTS),
}


def parse(arguments=None):
    parser = CheckpointParser("export", __doc__, "KEY VALUE")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", metavar="FILE", required=True, help="what to write, with the format's extension")
    parser.add_argument("--overwrite", action="store_true", help="also where FILE exists")
    parser.add_argument("--normalise", action="store_true", help="the file normalises: images are numbers in 0..1")
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="files or folders to run it on (default: the data set's own)"
    )
    flags = parser.parse(arguments)
    if flags.words:
        raise UserError(f"one checkpoint at a time; leave out {flags.words[0]}")
    if flags.images:
        flags.images, more = without_pairs(flags.images)
        flags.pairs += more
    chosen = FORMATS[flags.format]
    if flags.normalise and chosen.write is None:
        raise UserError(f"--normalise has no effect on {flags.format}, which holds weights alone; leave it out")
    output = flags.output = Path(flags.output)
    if output.suffix != chosen.extension:
        raise UserError(f"--output {output} does not end in {chosen.extension}, as {flags.format} does; rename it")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: no folder {output.parent}; make it, or name another")
    if output.exists() and not flags.overwrite:
        raise UserError(f"--output {output} exists; name another file, or add --overwrite")
    if output.exists() and Path(flags.checkpoint).exists() and output.samefile(flags.checkpoint):
        raise UserError(f"--output {output} is the checkpoint itself; name another file")
    for package in chosen.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            names = " ".join(chosen.packages)
            raise UserError(
                f"{flags.format} needs the package {package} ({error}); type pip install {names}"
            ) from error
    return flags


def main(arguments=None):
    flags = parse(arguments)
    student, named, cfg = read(flags)
    pictures, source = pictures_of(flags, cfg, student.transform)
    texts = meta_as_texts(meta_of(student, named, cfg))
    chosen, transform = FORMATS[flags.format], student.transform
    images = torch.stack([transform(picture) for picture in pictures])
    given = torch.stack([transform.pixels_of(picture) for picture in pictures]) / 255 if flags.normalise else images
    with atomic_write(flags.output) as file, quiet():
        try:
            if chosen.write is None:
                write_weights(file, student.network, texts)
                run = reread(file, named)
            else:
                statistics = (transform.mean, transform.std) if flags.normalise else ()
                texts["class_names"] = json.dumps(student.class_names)
                chosen.write(file, Logits(student.network, *statistics), given[:2].clone(), texts)
                file.flush()
                run = chosen.run(file.name)
            largest, difference = compare(student.network, images, run, given)
        except (UserError, OSError):
            raise
        except Exception as error:  # an exporter meets in a network what it does not know in a dozen ways
            raise UserError(
                f"{named.name} cannot be written as {flags.format} ({described(error)}); choose another --format"
            ) from error
        if not difference <= allowed(largest):  # not of NaN
            raise UserError(
                f"{flags.output} is not kept: its logits differ by {difference:.1e} from the network's, whose largest "
                f"is {largest:.3g}; choose another --format"
            )
    print(report(flags, student, named, source, largest, difference))


def write_weights(file, network, texts):
    from safetensors.torch import save

    # Copies, as tensors that share memory are refused.
    file.write(save({name: value.contiguous().clone() for name, value in network.state_dict().items()}, texts))


def reread(file, named):
    """The function of weights that were written to `file`, read as anyone would."""
    file.flush()
    student, *_ = read_student(Reader(named_by_user(named), []), Path(file.name))
    return lambda images: student.network(images)[0]


def named_by_user(named):
    """The network's name where a user must give it: code in a file is run only where that is named."""
    return named.name if is_file_reference(named.name) else None


@torch.no_grad()
def compare(network, images, run, given):
    """The largest logit of `network` for `images`, and how far those of `run` for `given` are from it at most."""
    logits, differences = network(images)[0], []
    for size in BATCHES:
        found = torch.cat([run(batch.contiguous()) for batch in given.split(size)])
        if found.shape != logits.shape:
            raise ValueError(f"logits {tuple(found.shape)} in place of {tuple(logits.shape)}")
        differences.append((found - logits).abs().max())
    return logits.abs().max().item(), torch.stack(differences).max().item()


def allowed(largest):
    """How far a logit may be off, where the `largest` is so large: float32 rounds in proportion."""
    return max(TOLERANCE, RELATIVE * largest)


@contextlib.contextmanager
def quiet():
    """Within it neither exporters nor runtimes tell of their inner life."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def meta_of(student, named, cfg):
    """What the checkpoint tells, and what was told of it, as the `meta` of a weight file."""
    dataset = cfg.DATASET
    sight = {"IMAGE_SIZE": dataset.IMAGE_SIZE, "MEAN": list(dataset.MEAN), "STD": list(dataset.STD)}
    values = parse_yaml(student.meta.get("config", ""), "the checkpoint's config")
    own = values.get("DATASET")
    values["DATASET"] = {"TYPE": dataset.TYPE} | (own if isinstance(own, dict) else {}) | sight
    return student.meta | {
        "network": named.name,
        "models": named.models,
        "arguments": named.arguments,
        "num_classes": len(student.class_names),
        "dataset": {"type": dataset.TYPE} | student.meta.get("dataset", {}) | {"image_size": dataset.IMAGE_SIZE},
        "normalisation": {"mean": sight["MEAN"], "std": sight["STD"]},
        "config": dump(values),
    }


def pictures_of(flags, cfg, transform):
    """As many pictures as the largest of BATCHES, some twice where there are fewer, and what they are."""
    most = max(BATCHES)
    if flags.images:
        paths, errors = image_files(flags.images)
        if errors:
            raise errors[0]
        found = [read_picture(path, transform) for path in paths[:most]]
        source = f"{count(len(found), 'image')} given"
    elif found := test_pictures(cfg, transform, most):
        source = f"{count(len(found), 'test image')} of {cfg.DATASET.ROOT}"
    else:
        found, source = list(draw_synthetic(most, 0, "test").images), f"{most} synthetic images"
    return list(itertools.islice(itertools.cycle(found), most)), source


def test_pictures(cfg, transform, most):
    """Up to `most` test images of the data set that `cfg` names; none where they are not here."""
    dataset = cfg.DATASET
    is_cifar100 = dataset.TYPE == "cifar100"
    if dataset.TYPE == "synthetic" or (is_cifar100 and not Path(dataset.ROOT, CIFAR100_FOLDER).is_dir()):
        return []
    try:
        found = DATASETS[dataset.TYPE].find(dataset, "test")
        rows = torch.linspace(0, len(found) - 1, min(most, len(found))).long().tolist()
        if isinstance(found, ImageSet):
            return [found.images[row] for row in rows]
        return [read_picture(found.path(row), transform) for row in rows]
    except UserError:
        return []


def read_picture(path, transform):
    """The image file `path` as uint8 (3, image_size, image_size)."""
    with open_image(path, transform.image_size) as image:
        return transform.pixels_of(image)


def report(flags, student, named, source, largest, difference):
    """What was written, in a few lines, and how to use it."""
    transform, side = student.transform, student.transform.image_size
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (transform.mean, transform.std))
    values = "numbers in 0..1" if flags.normalise else f"numbers in 0..1, normalised by\n         {mean} and {std}"
    arguments = json.dumps(str(flags.output), ensure_ascii=False)
    if FORMATS[flags.format].write is None and named_by_user(named):
        arguments += f", network={json.dumps(named.name, ensure_ascii=False)}"
    return printable_lines(
        f"""
{flags.output}, {flags.output.stat().st_size / 2**20:.2f} MiB, {flags.format}
image    float32 (batch, 3, {side}, {side}), {values}
logits   float32 (batch, {len(student.class_names)})
checked  on {source}, at batch {" and ".join(map(str, BATCHES))}
         largest difference {difference:.1e}, largest logit {largest:.3g}, allowed {allowed(largest):.1e}

{FORMATS[flags.format].snippet.format(arguments)}"""
    )


def printable_lines(text):
    return "\n".join(map(printable, text.strip().split("\n")))


if __name__ == "__main__":
    sys.exit(run_script(main))
