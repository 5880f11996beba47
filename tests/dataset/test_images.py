"""Image files of strangers: both ways of reading give the image as it looks, or one line that names the file."""

import io
import os
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mdistiller.dataset.decoding import decode, jpeg_size
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.images import FORMATS, MAX_BYTES, MAX_PIXELS, read_small
from mdistiller.errors import UserError

SIDE = 32
READERS = {
    "held": lambda path: read_small(path, SIDE).permute(1, 2, 0).numpy(),
    "streamed": lambda path: decode(path, SIDE)[0].permute(1, 2, 0).numpy(),
}


@pytest.fixture(params=READERS)
def read(request):
    """A way of reading an image file, uint8 (H, W, 3)."""
    return READERS[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.png"


@pytest.fixture
def warned():
    """The warnings that would be shown."""
    with warnings.catch_warnings(record=True) as shown:
        yield shown


def message(read, path):
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value) and f"cannot read image {path} (" in str(error.value)
    return str(error.value)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width, height, *others, depth=1, colour=0):
    """A PNG whose header claims `width` x `height` pixels, with `others` after it and hardly any content."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(others) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


def ramp(dtype, top):
    return np.linspace(0, top, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)


def test_no_program_is_started_for_a_file_of_another_format(read, path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n")
    assert f"none of {', '.join(FORMATS)}" in message(read, path)


@pytest.mark.parametrize("file_format", ["ICO", "TGA", "PCX", "DDS", "JPEG2000", "PDF", "EPS"])
def test_formats_beside_those_listed_are_not_read(read, path, file_format):
    Image.new("RGB", (SIDE, SIDE)).save(path, file_format)
    assert f"none of {', '.join(FORMATS)}" in message(read, path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_each_listed_format_is_read_whatever_the_name(read, path, file_format):
    Image.new("RGB", (SIDE, SIDE), (250, 250, 250)).save(path, file_format)
    assert (read(path) == 250).all()


@pytest.mark.parametrize(
    ("file_format", "mode", "colour"),
    [("PNG", "LA", (90, 0)), ("PNG", "RGBA", (90, 90, 90, 0)), ("PNG", "1", 1), ("TIFF", "CMYK", (0, 0, 0, 165))],
)
def test_transparency_is_left_out_and_any_colours_become_rgb(read, path, file_format, mode, colour):
    Image.new(mode, (SIDE, SIDE), colour).save(path, file_format)
    assert (read(path) == (255 if mode == "1" else 90)).all()


def test_a_palette_with_transparency_is_read_without_a_warning(read, path, warned):
    Image.fromarray(ramp(np.uint8, 255)).convert("P").save(path, transparency=bytes(range(256)))
    assert read(path).shape == (SIDE, SIDE, 3) and not warned


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_read(read, path, file_format):
    frames = [Image.new("RGB", (SIDE, SIDE), (value,) * 3) for value in (255, 0, 0)]
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:])
    assert (read(path) == 255).all()


def test_orientation_is_not_applied(read, path):
    image, exif = Image.new("RGB", (SIDE, SIDE)), Image.Exif()
    image.paste((255, 255, 255), (0, 0, SIDE, SIDE // 2))
    exif[0x0112] = 3  # upside down
    image.save(path, "JPEG", exif=exif)
    assert read(path)[0, 0, 0] > 200 > 50 > read(path)[-1, 0, 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_a_pixel_are_scaled(read, path, file_format):
    pixels = ramp(np.uint16, 65535)
    Image.fromarray(pixels).save(path, file_format)
    assert np.array_equal(read(path)[..., 0], pixels >> 8)


@pytest.mark.parametrize(
    "pixels",
    [ramp(np.float32, 1), ramp(np.float32, 255), ramp(np.float32, 1) * np.nan, ramp(np.int32, 255)],
    ids=["0 to 1", "0 to 255", "nan", "int32"],
)
def test_numbers_without_a_range_are_refused(read, path, pixels):
    Image.fromarray(pixels).save(path, "TIFF")
    assert "no unsigned numbers of 1 to 16 bits" in message(read, path)


@pytest.mark.parametrize(("tag", "value"), [(339, 2), (262, 0)], ids=["signed", "white is zero"])
def test_sixteen_bits_that_are_signed_or_inverted_are_refused(read, path, tag, value):
    Image.fromarray(ramp(np.uint16, 30000)).save(path, "TIFF", tiffinfo={tag: value})
    data = bytearray(path.read_bytes())
    place = data.find(struct.pack("<H", tag) + struct.pack("<HI", 3, 1))
    data[place + 8 : place + 10] = struct.pack("<H", value)  # PIL writes some tags as it likes
    path.write_bytes(data)
    assert "no unsigned numbers of 1 to 16 bits" in message(read, path)


def test_floats_of_other_formats_are_refused(read, path):
    path.write_bytes(b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes())
    assert "no unsigned numbers" in message(read, path)


@pytest.mark.parametrize(
    ("width", "height"), [(32000, 32000), (MAX_PIXELS + 1, 1), (10000, 10000), (2**31 - 1, 2**31 - 1)]
)
def test_more_pixels_than_the_limit_are_refused_from_the_header(read, path, width, height, warned):
    path.write_bytes(png_of(width, height))
    start = time.perf_counter()
    assert f"more than {MAX_PIXELS:,} pixels" in message(read, path)
    assert time.perf_counter() - start < 1 and not warned


def jpeg(**options):
    file = io.BytesIO()
    Image.new("RGB", (7, 5)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(999)}, {"comment": b"a"}])
def test_the_header_of_a_jpeg_tells_its_size(options):
    assert jpeg_size(jpeg(**options)) == (7, 5)


@pytest.mark.parametrize("inserted", [b"\0", b"\xff", b"\xff\xd0", b"\xff\xc4\0\1", b"\xff\xda\0\2"])
def test_a_header_that_decoders_may_read_otherwise_tells_none(inserted):
    content = jpeg()
    assert jpeg_size(content[:2] + inserted + content[2:]) is None


def test_a_jpeg_of_more_pixels_than_the_limit_is_refused(read, path):
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = b"\xff\xdc\xff\xdc"
    path.write_bytes(content)
    assert f"more than {MAX_PIXELS:,} pixels" in message(read, path)


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
@pytest.mark.parametrize("reader", [read_small, decode])
def test_an_image_that_is_a_line_is_refused(path, size, reader):
    path.write_bytes(png_of(*size))
    assert f"{size[0]} x {size[1]} pixels, one side over 1,000 times the other" in message(
        lambda f: reader(f, 32), path
    )


@pytest.mark.parametrize("size", [(20, 20000), (20000, 20)])
@pytest.mark.parametrize("reader", [read_small, decode])
def test_an_image_that_scaling_would_make_too_large_is_refused(path, size, reader):
    path.write_bytes(png_of(*size))
    text = message(lambda file: reader(file, 512), path)
    assert f"{size[0]} x {size[1]} pixels, and when its shorter side is scaled to 512 more" in text


def test_a_gif_that_claims_the_most_pixels_is_refused(read, path):
    path.write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x01\0\0;")
    assert f"more than {MAX_PIXELS:,} pixels" in message(read, path)


@pytest.mark.parametrize("content", [png_of(0, 5), b"P6\n0 5\n255\n", b"GIF89a" + bytes(7) + b";"])
def test_an_image_without_pixels_is_refused(read, path, content):
    path.write_bytes(content)
    message(read, path)


def test_a_text_that_inflates_without_end_is_refused(read, path):
    path.write_bytes(png_of(2, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1)))))
    assert "Decompressed data too large" in message(read, path)


def test_a_file_of_too_many_bytes_is_refused(read, path):
    path.write_bytes(png_of(2, 2))
    os.truncate(path, MAX_BYTES + 1)
    assert f"more than {MAX_BYTES:,} bytes" in message(read, path)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(read, path, file_format, share):
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, file_format)
    path.write_bytes(content.getvalue()[: int(share * len(content.getvalue()))])
    message(read, path)


@pytest.fixture(params=["pipe", "socket", "link to a device", "link to a pipe", "link to nowhere", "link to itself"])
def special(request, tmp_path, monkeypatch):
    """What is no file, at train/a/x.png."""
    path = tmp_path / "train/a/x.png"
    path.parent.mkdir(parents=True)
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(path.parent)  # a socket's name is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        os.mkfifo(tmp_path / "pipe")
        targets = {"device": "/dev/zero", "pipe": tmp_path / "pipe", "nowhere": tmp_path / "no", "itself": path}
        path.symlink_to(targets[request.param.rpartition(" ")[2]])
    return path


def test_what_is_no_file_is_named_where_it_is_read(read, special):
    message(read, special)


def test_what_is_no_file_is_named_where_it_is_listed(special):
    with pytest.raises(UserError, match=str(special)) as error:
        find_images(special.parents[2], "train")
    assert "\n" not in str(error.value)


def test_a_folder_named_as_an_image_is_passed_over(tmp_path):
    (tmp_path / "train/a/x.png").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "train/a/y.png")
    assert find_images(tmp_path, "train").names.tolist() == [b"a/y.png"]


def test_a_file_without_permission_is_named(read, path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    Image.new("RGB", (2, 2)).save(path)
    monkeypatch.setattr(Path, "open", refuse)
    assert "(Permission denied)" in message(read, path)


@pytest.mark.parametrize("name", [b"a\nb.png", b"\x1b[2J.png", b"\xff\xfe.png"])
def test_a_name_that_no_terminal_shows_is_escaped(read, tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"text")
    with pytest.raises(UserError) as error:
        read(path)
    assert str(error.value).isprintable()
    Image.new("RGB", (SIDE, SIDE)).save(path, "PNG")
    assert read(path).shape == (SIDE, SIDE, 3)


def test_a_refusal_takes_little_memory(path):
    path.write_bytes(png_of(32000, 32000))
    program = """
import resource, sys
from mdistiller.dataset.images import read_small
from mdistiller.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_small(sys.argv[1], 224)
except UserError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50 * 1024 and run.stderr == ""
