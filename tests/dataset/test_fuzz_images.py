"""Folders with files as strangers have them, whole and damaged; FUZZ=10000 tries so many, always others.

Both ways of reading must agree on an image, or name the file in one line. What the decoders' C libraries write to the
terminal themselves, of damaged JPEGs and TIFFs, is out of reach and does not count.
"""

import io
import os
import resource
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from mdistiller.dataset.decoding import decode
from mdistiller.dataset.fingerprint import fingerprint
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.images import fit, read_small
from mdistiller.dataset.streaming import centre_crop
from mdistiller.errors import UserError

EXAMPLES = int(os.environ.get("FUZZ", 150))
SIDE = 8
MOST_MEMORY = 2**21  # KiB more than before: what an image of the most pixels takes
MODES = "1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"
ODD_NAMES = b"a\nb", b"\r", b"\x1b[2J", b"\xff\xfe", b"{x}%s", b" ", "é\u202e".encode(), b"x" * 200
SUFFIXES = b".png", b".jpg", b".JPEG", b".bmp", b".ppm", b".webp", b".tif", b".TIFF"
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\1\0",
    b"\1\0\0\0",
    b"\x40\0\0\0",
)
OPTIONS = (
    {},
    {"progressive": True, "quality": 30},
    {"compression": "tiff_lzw"},
    {"compression": "tiff_adobe_deflate"},
    {"compression": "jpeg"},
    {"compression": "packbits"},
    {"save_all": True, "append_images": [Image.new("RGB", (5, 3), (255, 0, 0))]},
    {"transparency": 0},
    {"transparency": b"\0\x80\xff"},
    {"lossless": True},
    {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"},
    {"icc_profile": bytes(200)},
)

# What a decoder believes stands at the beginning of most files, and in a TIFF at the end; a fraction is of the length.
PLACES = st.one_of(st.integers(0, 64), st.integers(-64, -1), st.floats(0, 1))
CHANGES = st.tuples(
    PLACES, st.one_of(st.sampled_from(("cut", "repeat", "remove")), st.sampled_from(NUMBERS), st.binary(max_size=2))
)


def image_file(file_format, mode, size, options, seed, changes):
    """The bytes of an image file, with `changes` of them: places, and what is done there or stands there then."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    try:
        image = image.convert("L").convert(mode) if mode in ("I", "I;16", "F", "LA", "PA") else image.convert(mode)
        image.save(file, file_format, **options)
    except Exception:  # PIL cannot write every mode and option
        image.convert("RGB").save(file := io.BytesIO(), "PNG")
    content = bytearray(file.getvalue())
    for place, change in changes:
        start = int(place * len(content)) if isinstance(place, float) else place % (len(content) or 1)
        if change == "cut":
            del content[start:]
        elif change == "repeat":
            content[start:start] = content[start : start + 40]
        elif change == "remove":
            del content[start : start + 7]
        else:
            content[start : start + len(change)] = change
    return bytes(content)


CONTENTS = st.builds(
    image_file,
    st.sampled_from(("PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "MPO", "ICO", "TGA")),
    st.sampled_from(MODES),
    st.tuples(*[st.sampled_from((1, 2, 7, 8, 9, 33, 300))] * 2),
    st.sampled_from(OPTIONS),
    st.integers(0, 9),
    st.lists(CHANGES, max_size=3),
)


NAMES = st.builds(bytes.__add__, st.sampled_from((b"x", *ODD_NAMES)), st.sampled_from(SUFFIXES))
FILES = st.lists(st.tuples(NAMES, st.one_of(*[CONTENTS] * 7, st.sampled_from(("folder", "link", "pipe")))), max_size=4)


def make(folder, name, what):
    """A file with the bytes `what`, or what is no file."""
    path = os.path.join(os.fsencode(folder), name)
    if os.path.lexists(path):
        return
    if what == "folder":
        os.mkdir(path)
    elif what == "link":
        os.symlink(path, path)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        Path(os.fsdecode(path)).write_bytes(what)


def attempt(read, *args):
    """What `read` returns, or None where it raises a `UserError`, which must be one line."""
    try:
        return read(*args)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 2000
        return None


def check(path):
    """Read the image file `path` in both ways, which must agree."""
    held, streamed = attempt(read_small, path, SIDE), attempt(decode, path, SIDE)
    assert (held is None) == (streamed is None)
    if held is not None:
        pixels = streamed[0].permute(1, 2, 0).contiguous().numpy()
        assert np.array_equal(held.permute(1, 2, 0), fit(Image.fromarray(pixels), SIDE))
        assert centre_crop(streamed, SIDE).shape == (1, 3, SIDE, SIDE)


@settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ" not in os.environ,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(st.dictionaries(st.sampled_from((b"a", *ODD_NAMES)), FILES, max_size=2))
def test_a_folder_is_read_alike_in_both_ways_or_named_in_one_line(capsys, classes):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    capsys.readouterr()  # what was shown while the files were written
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings(record=True) as shown:
        for name, files in classes.items():
            folder = os.path.join(os.fsencode(root), b"train", name)
            os.makedirs(folder)
            for file in files:
                make(folder, *file)
                check(os.fsdecode(os.path.join(folder, file[0])))
        found = attempt(find_images, root, "train")
        assert found is None or fingerprint(found)
        assert not shown
    assert capsys.readouterr().err == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY
