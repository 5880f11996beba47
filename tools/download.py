"""The download of one large file, which goes on where it broke off, in the same call or a later one."""

import contextlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from tqdm import tqdm

from mdistiller.checks import brief
from mdistiller.engine.writing import atomic_write, writing
from mdistiller.errors import UserError
from mdistiller.files import open_regular

TRIES, WAIT = 5, 1.0  # in a row that bring little, and seconds before the second one, twice as many before each next
LITTLE = 2**20  # bytes
PATIENCE = 60.0  # seconds, with a server that says nothing
BLOCK = 2**18
TRY_LATER = {408, 425, 429}
RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class Known(NamedTuple):
    """What a server told of a file of which a part is here. mark: tells it from what may be served later."""

    url: str
    mark: str
    total: int


def download(url, path, most):
    """Have at `path` the whole file that `url` serves, of at most `most` bytes.

    What is there already of the same file is not downloaded again. Raises UserError, which says whether what came is
    kept, for an address that serves no such file, a server that breaks off too often, and a full disk.
    """
    check_url(url)
    vain = 0
    while True:
        before = size_of(path)
        try:
            if fetch_rest(url, path, most):
                return
            reason = "it breaks off"
        except urllib.error.HTTPError as error:
            reason = f"it answers {error.code} {brief(error.reason or '')}".strip()
            if error.code < 500 and error.code not in TRY_LATER:
                raise UserError(f"cannot download {url}: {reason}; name another address with --url") from error
        except (OSError, http.client.HTTPException) as error:
            reason = brief(str(getattr(error, "reason", error)) or type(error).__name__)
        except ValueError as error:
            raise UserError(f"cannot download {url}: {error}; name another address with --url") from error
        vain = 1 if size_of(path) - before > LITTLE else vain + 1
        if vain >= TRIES:
            kept = f"{size_of(path) / 1e6:.1f} MB are kept in {path}; the same command goes on"
            raise UserError(f"cannot download {url}: {reason}; {kept}, --url names another address")
        time.sleep(WAIT * 2 ** (vain - 1))


def check_url(url):
    """Raise UserError where `url` is no address of a web server."""
    try:
        parts = urlparse(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not (is_address and url.isascii() and url.isprintable() and " " not in url):
        raise UserError(f"--url is {brief(repr(url))}; expected an address that begins with https:// or http://")


def fetch_rest(url, path, most):
    """Add to `path` what is missing, in one request; whether it then is whole.

    Where what is there does not go with what the server sends, it is removed, to begin anew.
    """
    known = read_known(path, url)
    start = size_of(path) if known else 0
    if known and start == known.total:
        return True
    headers = {"User-Agent": "mdistiller", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.mark}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            remove(path)
            return False
        raise
    with response:
        mark, total = mark_of(response.headers), getattr(response, "length", None)
        if response.status == 206:
            place = RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not (known and place and (int(place[1]), int(place[2])) == (start, known.total) and mark == known.mark):
                remove(path)
                return False
            total = known.total
        else:
            start = 0
            with writing(path):
                remove(path)
        check_room(path, start, total, most)
        if not start and mark and total is not None:
            with atomic_write(state_of(path)) as file:
                file.write(json.dumps(Known(url, mark, total)).encode())
        return copy(response, path, start, total, most)


def copy(response, path, start, total, most):
    """Write what `response` sends to `path`, from byte `start` of it on; whether it then is whole."""
    count = start
    with contextlib.ExitStack() as stack:
        stack.enter_context(bar := bar_of(start, total))
        with writing(path):
            file = stack.enter_context(path.open("ab" if start else "wb"))
        while block := response.read(BLOCK):
            count += len(block)
            if count > (most if total is None else total):
                remove(path)
                check_room(path, start, count, most)
                return False
            with writing(path, "; what came before is kept"):
                file.write(block)
                file.flush()
            bar.update(len(block))
        with writing(path, "; what came before is kept"):
            os.fsync(file.fileno())
    return total is None or count == total


def bar_of(start, total):
    return tqdm(
        desc="Downloading",
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )


def check_room(path, start, total, most):
    """Raise UserError where a file of `total` bytes, or None, is too large, or what is missing of it for the disk."""
    if total is None:
        return
    if total > most:
        raise UserError(
            f"what is served is too large, {total / 1e6:.1f} MB, expected at most {most / 1e6:.0f} MB; name another "
            "address with --url"
        )
    free = shutil.disk_usage(path.parent).free
    if total - start > free:
        raise UserError(
            f"cannot write {path}: {(total - start) / 1e6:.1f} MB are missing and {free / 1e6:.1f} MB free; make room "
            "there, and the same command goes on"
        )


def mark_of(headers):
    """What `headers` tell this version of a file by, as If-Range takes it; empty where they do not."""
    tag = headers.get("ETag", "")
    mark = headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
    return mark if mark.isascii() and mark.isprintable() else ""


def state_of(path):
    """Where it stands what the part at `path` is of."""
    return path.with_name(f"{path.name}.json")


def read_known(path, url):
    """What is known of the part at `path`; None where it is not of `url`, or that cannot be read."""
    try:
        with open_regular(state_of(path)) as file:
            known = Known(*json.loads(file.read(2**16)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    is_sound = known.url == url and isinstance(known.mark, str) and type(known.total) is int
    return known if is_sound and size_of(path) <= known.total else None


def size_of(path):
    return path.stat().st_size if Path(path).is_file() else 0


def remove(path):
    """Remove the part at `path` and what stands of it."""
    for each in (path, state_of(path)):
        each.unlink(missing_ok=True)
