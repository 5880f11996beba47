"""What a file is that is named as weights, and whether its content is what it claims, before anything is loaded."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from mdistiller.errors import UserError

from .claims import LARGEST_INDEX, Bounded, Claims, HoldsCode, HoldsSpecial, Unfounded

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # which begins a file from before torch.save wrote zip archives
BLOCK = 2**18  # bytes that are checked at a time; they stay in the processor's cache

AGAIN = "download or train them again"
SAVE = "save model.state_dict() with torch.save, and name that file"
UNPACK = "unpack it and name a file inside"
# How files begin that are no weights of torch, what they are, and what to do.
BEGINNINGS = {
    b"version https://git-lfs": ("a Git LFS pointer, not the weights", "type: git lfs pull"),
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), ("a compressed or tar archive", UNPACK)),
    **dict.fromkeys((b"7z\xbc\xaf\x27\x1c", b"Rar!"), ("an archive", UNPACK)),
    b"\x93NUMPY": ("an array of NumPy (.npy)", SAVE),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes them", SAVE),
    b"GGUF": ("a GGUF file", SAVE),
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml"), ("a web page, as a failed download leaves", AGAIN)),
    **dict.fromkeys((b'{"', b"{'"), ("text, as a failed download leaves", AGAIN)),
}


def check_file(file: BinaryIO, path: Path) -> str:
    """The format of the weight file `path`, open as `file`: "zip", "legacy" or "safetensors".

    Raises UserError, in one line that names the file, for another format, for what is damaged, and for what claims more
    than it holds. Takes no memory that the claims ask for.
    """
    head = file.read(512)
    size = file.seek(0, 2)
    file.seek(0)
    if not head:
        raise UserError(f"weights {path} are empty (0 bytes); {AGAIN}")
    if known := _beginning(head, path):
        raise UserError(f"weights {path} are {known[0]}; {known[1]}")
    if 0 < int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{":
        if int.from_bytes(head[:8], "little") > LARGEST_INDEX:
            raise UserError(f"weights {path} claim more than they hold or need (a long header); {AGAIN}")
        return "safetensors"
    if not head.startswith((ZIP, PICKLE)):
        raise UserError(f"weights {path} are damaged or no weight file; {AGAIN}")
    try:
        if head.startswith(ZIP):
            _check_zip(file, path, size)
            return "zip"
        _check_legacy(file, path, size)
        return "legacy"
    except Unfounded as error:
        raise UserError(f"weights {path} claim more than they hold or need ({error}); {AGAIN}") from error
    except HoldsSpecial as error:
        raise UserError(
            f"weights {path} hold a tensor {error}; expected plain tensors: convert it and save the state dict again"
        ) from error
    except HoldsCode as error:
        raise UserError(
            f"weights {path} hold code or objects beside tensors ({str(error)[:100]}), as of a whole network, "
            "which are not loaded; save them again with torch.save(model.state_dict(), file)"
        ) from error
    except UserError:
        raise
    except Exception as error:  # a damaged archive or pickle raises a dozen types
        raise UserError(f"weights {path} are damaged or truncated; {AGAIN}") from error


def _beginning(head: bytes, path: Path) -> tuple[str, str] | None:
    """What the file is, and what to do, where it begins as something that is no weight file."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, known in BEGINNINGS.items():
        if head.startswith(beginning) or start.startswith(beginning):
            return known
    if head[257:262] == b"ustar":
        return "a tar archive", f"unpack it (tar xf {path}) and name a file inside"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:32]):
        return "an ONNX network", SAVE
    return None


def _check_zip(file: BinaryIO, path: Path, size: int) -> None:
    """Hold an archive against what torch.save writes: members as long as they claim, with their sums, and no more."""
    bounded = Bounded(file)
    with zipfile.ZipFile(bounded) as archive:  # type: ignore[arg-type]  # reads are all that it needs
        members = {member.filename: member for member in archive.infolist()}
        if known := _kind_of_archive(members):
            raise UserError(f"weights {path} are {known}; {SAVE}")
        sizes = [member.file_size for member in members.values()]
        is_torchs = (
            len({name.lower() for name in members}) == len(archive.infolist())
            and not archive.comment
            and min(member.header_offset for member in members.values()) == 0
            and all(member.compress_type == zipfile.ZIP_STORED for member in members.values())
            and all(member.file_size == member.compress_size for member in members.values())
        )
        if not is_torchs or sum(sizes) > size:
            raise Unfounded(f"an archive as torch.save does not write it, of {sum(sizes) >> 20} MB in {size >> 20} MB")
        (index,) = (name for name in members if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = index.removesuffix("data.pkl")
        claims = Claims(io.BytesIO(archive.read(index)))
        claims.load()
        for key, claimed in claims.storages.items():
            if claimed > members[f"{folder}data/{key}"].file_size:
                raise Unfounded("a tensor is longer than what is stored of it")
    block = memoryview(bytearray(BLOCK))
    for member in members.values():
        if _sum_of(file, member, block) != member.CRC:
            raise UserError(f"weights {path} are damaged: the checksum of {member.filename} does not fit; {AGAIN}")


def _kind_of_archive(members: dict[str, Any]) -> str | None:
    """What an archive is that is none of torch.save."""
    if any("/code/" in f"/{name}" or name.endswith("/constants.pkl") for name in members):
        return "a TorchScript program"
    if members and all(name.endswith(".npy") for name in members):
        return "arrays of NumPy (.npz)"
    if "model.weights.h5" in members:
        return "a Keras network"
    if not any(name.endswith("/data.pkl") for name in members):
        return "a zip archive, not of torch.save"
    return None


def _sum_of(file: BinaryIO, member: zipfile.ZipInfo, block: memoryview) -> int:
    """The CRC-32 of a member, which is stored as it is; block: room to read it in."""
    file.seek(member.header_offset)
    header = file.read(30)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    left, value = member.file_size, 0
    while left and (count := file.readinto(block[: min(left, len(block))])):  # type: ignore[attr-defined]
        value, left = zlib.crc32(block[:count], value), left - count
    return value


def _check_legacy(file: BinaryIO, path: Path, size: int) -> None:
    """Hold the pickles of an older file against the storages after them."""
    claims = Claims(Bounded(file))
    if claims.load() != MAGIC_NUMBER:
        raise UserError(f"weights {path} are a pickle, not of torch.save; {SAVE}")
    for _ in ("protocol", "system", "content", "keys"):
        claims.load()
    if sum(claims.storages.values()) > size:
        raise Unfounded(f"tensors of {sum(claims.storages.values()) >> 20} MB in a file of {size >> 20} MB")
