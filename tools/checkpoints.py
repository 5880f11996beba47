"""What the tools of one weight file share: their flags, and the images that are named to them."""

import os
import re
from pathlib import Path

from mdistiller.dataset.folder import EXTENSIONS
from mdistiller.engine.flags import KEY, FlagParser
from mdistiller.engine.runs import PROJECT
from mdistiller.engine.students import Reader, read_student
from mdistiller.errors import UserError

NETWORK = "its network, where the file does not tell: a name, torchvision:NAME, timm:NAME or path/net.py:NAME"


class CheckpointParser(FlagParser):
    """The flags of a tool that takes a weight file, `words` after it, and KEY VALUE pairs as `test.py` does."""

    def __init__(self, prog, description, words):
        super().__init__(prog=prog, description=description)
        self.add_argument("checkpoint", metavar="CHECKPOINT", help="weights, in any form that test.py reads")
        self.add_argument("words", nargs="*", metavar=words, help="config pairs as of test.py: DATASET.TYPE imagenet")
        self.add_argument("--model", metavar="NETWORK", help=NETWORK)
        self.add_argument("--num_classes", type=int, metavar="N", help="how many it scores, where the file tells not")

    def parse(self, arguments):
        flags = super().parse(arguments)
        flags.words, flags.pairs = without_pairs(flags.words)
        return flags


def without_pairs(words):
    """The words that are no KEY with its VALUE, and the others. Raises UserError for a key alone."""
    rest, pairs, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if not re.fullmatch(KEY, word) or word.lower().endswith(EXTENSIONS) or Path(word).exists():
            rest.append(word)
        elif left:
            pairs += [word, left.pop(0)]
        else:
            raise UserError(f"{word} has no value; type {word} VALUE")
    return rest, pairs


def read(flags):
    """What `read_student` gives for `flags`."""
    return read_student(Reader(flags.model, flags.pairs, PROJECT), Path(flags.checkpoint), flags.num_classes)


def image_files(words):
    """The image files that `words` name, files as they are and all below folders, and errors of words without any."""
    found, errors = [], []
    for word in words:
        path = Path(word)
        try:
            found += images_below(path, set()) if path.is_dir() else [path]
        except UserError as error:
            errors.append(error)
    return found, errors


def images_below(folder, seen):
    """Image files in `folder` and the folders in it, sorted, hidden ones passed over. seen: folders, once each.

    Raises UserError where there are none, or a folder cannot be read.
    """
    is_outermost = not seen
    real = os.path.realpath(folder)
    if real in seen:
        return []
    seen.add(real)
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; expected a folder of images") from error
    found = []
    for path in entries:
        if path.is_dir():
            found += images_below(path, seen)
        elif path.name.lower().endswith(EXTENSIONS):
            found.append(path)
    if is_outermost and not found:
        raise UserError(f"no images in {folder}: expected files ending in {' '.join(EXTENSIONS)}")
    return found
