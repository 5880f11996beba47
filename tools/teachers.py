"""The teachers of CIFAR-100: resnet32x4, resnet56, resnet110, vgg13, wrn_40_2 and ResNet50; all, or those named.

fetch   download the weights that MDistiller released to download_ckpts/; --url names a mirror of its archive
check   test those that are here, and print what they reach beside what was published
train   train them one after the other by train.py; what has finished is skipped, what was stopped goes on

Nothing that is there already is overwritten. KEY VALUE are of the config, for check and train: DATASET.ROOT FOLDER;
so is --device cpu, cuda:1 …
"""

import argparse
import contextlib
import os
import sys
import tarfile
from pathlib import Path

if not __package__:  # run as a file, beside which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mdistiller.dataset import CIFAR100_CLASSES
from mdistiller.distillers import PLAIN_TRAINING
from mdistiller.engine.claims import Bounded
from mdistiller.engine.cli import run_script, training_main
from mdistiller.engine.ending import tell
from mdistiller.engine.evaluate import Evaluator
from mdistiller.engine.flags import KEY, FlagParser
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.launch import select_device
from mdistiller.engine.lines import count
from mdistiller.engine.owner import owned
from mdistiller.engine.resolve import pick
from mdistiller.engine.runs import BASELINE_FOLDERS, CONFIGS, PROJECT, make_folder, published_weights, shown
from mdistiller.engine.students import weight_file
from mdistiller.engine.tables import UNKNOWN, WIDTH, align
from mdistiller.engine.teachers import MDISTILLERS, RELEASED
from mdistiller.engine.values import read_yaml
from mdistiller.engine.weights import load_weights, read_meta
from mdistiller.engine.writing import atomic_write, remove_stale, writing
from mdistiller.errors import UserError, printable
from mdistiller.files import open_regular
from mdistiller.models import build_model
from tools.download import check_url, download, remove
from tools.grid.find import FINISHED, RUNNING, STOPPED, Finder
from tools.grid.jobs import claimed
from tools.grid.run import Run

URL = "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"
PATTERN = MDISTILLERS[CIFAR100.models]  # of a teacher's file, below the project
FOLDER = Path(PATTERN).parts[0]
MOST_BYTES = 2**30  # of the archive; the released one has 364 million
MOST_MEMBERS = 1000
LARGEST_GAP = 1.0  # percent below the published accuracy
OF_RELEASE, OF_TRAINING = "MDistiller", "train.py"
HEADER = "teacher", "from", "top-1", "published", "difference", "file"


def parse(arguments=None):
    usage = "teachers.py fetch|check|train [NAME ...] [KEY VALUE ...] [--url URL] [--device DEVICE]"
    looks = argparse.RawDescriptionHelpFormatter
    parser = FlagParser(usage=usage, description=__doc__, formatter_class=looks, add_help=False)
    untold = {"help": argparse.SUPPRESS}  # as the description tells all of them
    parser.add_argument("-h", "--help", action="help", **untold)
    parser.add_argument("action", choices=ACTIONS, **untold)
    parser.add_argument("names", nargs="*", **untold)
    parser.add_argument("--url", **untold)
    parser.add_argument("--device", **untold)
    flags = parser.parse(arguments)
    first = next((place for place, word in enumerate(flags.names) if KEY.fullmatch(word)), len(flags.names))
    flags.names, flags.pairs = flags.names[:first], flags.names[first:]
    is_fetch = flags.action == "fetch"
    if is_fetch and (flags.pairs or flags.device):
        raise UserError(f"{flags.pairs[0] if flags.pairs else '--device'} has no effect on fetch; leave it out")
    if flags.url and not is_fetch:
        raise UserError(f"--url has no effect on {flags.action}; leave it out")
    if len(flags.pairs) % 2:
        raise UserError(f"{flags.pairs[-1]} has no value; type {flags.pairs[-1]} VALUE")
    flags.url = flags.url or URL
    check_url(flags.url)
    flags.names = list(dict.fromkeys(map(named, flags.names))) or list(RELEASED)
    return flags


def named(word):
    """The teacher that `word`, an index or a name, means."""
    name = pick("teacher", word, CIFAR100)
    if name not in RELEASED:
        script = f"{CIFAR100.folder}/Utils/train.py"
        raise UserError(f"{name} is none of {', '.join(RELEASED)}; python {script} --selected_model {name} trains it")
    return name


def fetch(flags, project):
    """Put the released weights of teachers where the scripts look for them; those that are there are kept."""
    places = {name: project / PATTERN.format(name) for name in flags.names}
    if not missing_of(places):
        print(f"all there, and kept: {', '.join(places)}; remove a file to have it fetched again")
        return
    folder = project / FOLDER
    archive = folder / Path(URL).name
    make_folder(folder)
    remove_stale([folder, *(place.parent for place in places.values())])
    with owned(folder, "fetching to"):
        missing = missing_of(places)
        if kept := [name for name in places if name not in missing]:
            print(f"there, and kept: {', '.join(kept)}")
        is_new = not os.path.lexists(archive)
        if is_new:
            download_archive(flags.url, archive, missing)
        unpack(archive, {name: places[name] for name in missing})
        if is_new and flags.names == list(RELEASED):
            archive.unlink()
        else:
            print(f"{shown(archive)} has the others, and may be removed")


def missing_of(places):
    """The names in `places` whose files are not there. Raises UserError for something else in the place of one."""
    for place in places.values():
        if os.path.lexists(place) and not place.is_file():
            raise UserError(f"{place} is no file; move it away")
    return [name for name, place in places.items() if not place.is_file()]


def download_archive(url, archive, names):
    """Have `archive`, with the weights of the teachers `names`, from `url`."""
    part = archive.with_name(f"{archive.name}.part")
    if os.path.lexists(part) and (part.is_symlink() or not part.is_file()):
        raise UserError(f"{part} is no file; move it away")
    print(f"downloading {url} to {shown(archive)}", flush=True)
    download(url, part, MOST_BYTES)
    try:
        members_of(part, names)
    except UserError as error:
        remove(part)
        raise UserError(f"what {url} serves is not used: {error}; name another address with --url") from error
    with writing(archive):
        os.replace(part, archive)
        remove(part)


def members_of(path, names):
    """Where in the tar archive `path` the weights of the teachers `names` are: {name: entry}.

    Raises UserError for what is no such archive, is cut off, or has something else than a file in such a place.
    """
    wanted = {f"{Path(*Path(PATTERN.format(name)).parts[1:])}": name for name in names}
    found = {}
    try:
        with open_regular(path) as file, tarfile.open(fileobj=Bounded(file), mode="r:") as archive:
            size = os.fstat(file.fileno()).st_size
            for number, entry in enumerate(archive):
                if number >= MOST_MEMBERS:
                    raise UserError(f"{path} has more than {MOST_MEMBERS} entries")
                if (name := wanted.get(entry.name.removeprefix("./"))) is None:
                    continue
                if not entry.isreg() or entry.issparse():
                    raise UserError(f"{entry.name} in {path} is no plain file")
                if entry.offset_data + entry.size > size:
                    raise UserError(f"{path} is cut off")
                found[name] = entry
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive raises a dozen types
        raise UserError(f"{path} is no tar archive, or damaged") from error
    if lacking := [path for path, name in wanted.items() if name not in found]:
        raise UserError(f"{path} lacks {', '.join(lacking)}")
    return found


def unpack(archive, places):
    """Put the weights of teachers in their `places`, {name: path}, each once it is known to fit its network."""
    try:
        entries = members_of(archive, list(places))
    except UserError as error:
        raise UserError(f"{error}; remove that file to have it downloaded") from error
    errors = []
    with open_regular(archive) as file:
        for name, place in places.items():
            try:
                unpack_one(file, entries[name], place, name)
                print(f"{name:<10}  {shown(place)}", flush=True)
            except UserError as error:
                errors.append(error)
    raise_last(errors)


def unpack_one(archive, entry, place, name):
    """Copy `entry` of the open `archive` to `place`. Raises UserError where it is no weights of the network `name`."""
    network = build_model(CIFAR100.models, name, 100)
    archive.seek(entry.offset_data)
    left = entry.size
    with atomic_write(place) as file:
        while left and (block := archive.read(min(left, 2**20))):
            file.write(block)
            left -= len(block)
        file.flush()
        try:
            load_weights(network, file.name, name)
        except UserError as error:
            reason = str(error).replace(str(file.name), entry.name)
            raise UserError(f"{reason} (in {archive.name}, which may be removed to download it again)") from error


def check(flags, project):
    """Print what the teachers that are here reach. Raises UserError where one is far below what was published."""
    device, data_sets, rows, errors = select_device(flags.device), {}, [], []
    found = files_of(flags.names, project)
    if not found:
        raise UserError(f"none of {', '.join(flags.names)} is here; type python {tool()} fetch")
    for name, source, path in found:
        evaluator = Evaluator(name, flags.pairs, device, project)
        evaluator.data_sets = data_sets
        try:
            top1 = evaluator.evaluate([weight_file(path, CIFAR100.models)], f"Testing {name}").result.top1
        except UserError as error:
            errors.append(error)
            continue
        known = published(name, source)
        difference = UNKNOWN if known is None else f"{top1 - known:+.2f}"
        rows.append((name, source, f"{top1:.2f}", UNKNOWN if known is None else f"{known:.2f}", difference, path))
        if known is not None and top1 < known - LARGEST_GAP:
            errors.append(UserError(f"{name} of {source} reaches {top1:.2f}, and {known:.2f} was published: {path}"))
    if rows:
        table = [HEADER, *((*row[:-1], printable(shown(row[-1]))) for row in rows)]
        print(align(table, HEADER[2:5], WIDTH), flush=True)
    raise_last(list({str(error): error for error in errors}.values()))


def files_of(names, project):
    """The weights that are here, as (name, where they come from, path)."""
    folder = project / CIFAR100.folder / "Utils" / BASELINE_FOLDERS[1]
    for_each = [
        (name, source, path)
        for name in names
        for source, path in (
            (OF_RELEASE, project / PATTERN.format(name)),
            (OF_TRAINING, published_weights(folder, name)),
        )
    ]
    return [(name, source, path) for name, source, path in for_each if path.is_file() and is_of_cifar100(path)]


def is_of_cifar100(path):
    """Whether the weights at `path` score the classes of CIFAR-100, as far as they tell."""
    classes = list(CIFAR100_CLASSES)
    with contextlib.suppress(UserError):  # testing them says what is wrong
        return read_meta(path).get("dataset", {}).get("classes", classes) == classes
    return True


def published(name, source):
    """The top-1 that was published of a teacher, in percent: by MDistiller, or with SKD; None where none was."""
    if source == OF_RELEASE:
        return RELEASED[name]
    return read_yaml(CONFIGS / "grids/cifar100.yaml")["published"].get(name, {}).get(PLAIN_TRAINING)


def train(flags, project):
    """Train the teachers that no finished run has trained, by the recipe of train.py."""
    keys = dict(zip(flags.pairs[::2], flags.pairs[1::2], strict=True))
    device = ["--device", flags.device] if flags.device else []
    runs = [
        Run.of(name, CIFAR100, project, PLAIN_TRAINING, {"student": name}, None, None, keys) for name in flags.names
    ]
    for number, run in enumerate(runs, 1):
        found = Finder().look(run)
        if found.state in (FINISHED, RUNNING):
            print(f"{run.title}: {found.state}, {shown(found.files.best)}", flush=True)
            continue
        print(f"{run.title}: {number} of {count(len(runs), 'teacher')}", flush=True)
        with claimed(run):
            resume = ["--resume", found.files.name] if found.state == STOPPED else []
            training_main(CIFAR100, run.utils, [*run.words[1:], *resume, *device])


def tool():
    return shown(Path(__file__))


def raise_last(errors):
    """Tell `errors`, and raise the last of them; of none do nothing."""
    for error in errors[:-1]:
        tell(f"error: {error}")
    if errors:
        raise errors[-1]


ACTIONS = {"fetch": fetch, "check": check, "train": train}


def main(project, arguments=None):
    flags = parse(arguments)
    ACTIONS[flags.action](flags, project)


if __name__ == "__main__":
    sys.exit(run_script(main, PROJECT))
