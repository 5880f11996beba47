"""`tools/download.py`: what breaks off goes on, what does not fit begins anew, and what cannot be is one line."""

import random
import shutil
import socket

import pytest

from mdistiller.errors import UserError
from tests.tools.server import serving
from tools import download as module
from tools.download import download, state_of

CONTENT, OTHER = random.Random(0).randbytes(300_000), random.Random(1).randbytes(300_000)
MOST = 10**6


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "WAIT", 0)


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.part"


def fails(server, path, *parts, most=MOST):
    with pytest.raises(UserError) as error:
        download(server if isinstance(server, str) else server.url, path, most)
    text = str(error.value)
    assert "\n" not in text and all(part in text for part in parts), text


def test_a_file_comes_whole_in_one_request(server, path):
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT and server.ranges == [None]


def test_what_breaks_off_goes_on_by_itself(server, path):
    server.ways += [{"bytes": 1000}, {"bytes": 500}, {"bytes": 0}]
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-", "bytes=1500-"]


def test_a_server_that_breaks_off_too_often_is_one_line_and_a_later_call_goes_on(server, path):
    server.ways += [{"bytes": 1000}] * 5
    fails(server, path, "it breaks off", "0.0 MB are kept in", "the same command goes on")
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT and server.ranges[-1] == "bytes=5000-"


def test_tries_that_bring_much_are_not_counted(server, path, monkeypatch):
    monkeypatch.setattr(module, "LITTLE", 10_000)
    server.ways += [{"bytes": 20_000}] * 12
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT


def test_a_whole_file_is_not_asked_for_again(server, path):
    download(server.url, path, MOST)
    download(server.url, path, MOST)
    assert server.ranges == [None]


@pytest.mark.parametrize(
    "way",
    [
        {"content": OTHER, "mark": '"2"'},
        {"content": OTHER, "mark": '"2"', "ignores_if_range": True},
        {"ignores_range": True},
        {"range": "bytes 0-299999/300000"},
        {"range": "bytes 1000-299999/300001"},
        {"range": "bytes 1000-299999/*"},
        {"range": "lines 1-2"},
        {"status": 416, "content": b""},
        {"status": 500},
        {"status": 206, "ignores_range": True, "range": "bytes 7-299999/300000"},
        {"length": 10**5 * 3},
        {"bytes": 10, "length": "many"},
    ],
)
def test_what_does_not_go_with_the_part_begins_anew(server, path, way):
    server.ways += [{"bytes": 1000}, way]
    if "mark" in way:
        server.ways += [way]
    download(server.url, path, MOST)
    assert path.read_bytes() in (CONTENT, OTHER if "mark" in way else CONTENT)


@pytest.mark.parametrize("mark", ["", 'W/"1"'])
def test_a_part_that_nothing_tells_from_another_version_begins_anew(path, mark):
    with serving(CONTENT, mark) as server:
        server.ways += [{"bytes": 1000}]
        download(server.url, path, MOST)
        assert path.read_bytes() == CONTENT and server.ranges == [None, None]


@pytest.mark.parametrize("state", [b"", b"{}", b"[1, 2, 3]", b"\xff", b"[" * 10_000, b'["u", "m", 9]', b'[[], {}, ""]'])
def test_a_damaged_note_of_the_part_begins_anew(server, path, state):
    path.write_bytes(OTHER[:1000])
    state_of(path).write_bytes(state)
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT and server.ranges == [None]


def test_a_part_of_another_address_begins_anew(server, path):
    server.ways += [{"bytes": 1000}] * 5
    fails(server, path)
    download(f"{server.url}?mirror", path, MOST)
    assert path.read_bytes() == CONTENT and server.ranges[-1] is None


def test_a_file_without_a_length_is_taken_as_it_ends(server, path):
    server.ways += [{"without_length": True}]
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("way", [{}, {"without_length": True}])
def test_a_file_that_is_too_large_is_one_line(server, path, way):
    server.ways += [way]
    fails(server, path, "too large", most=200_000)


def test_a_disk_without_room_is_one_line_before_anything_comes(server, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    fails(server, path, "0.3 MB are missing and 0.0 MB free", "make room")
    assert not path.exists()


@pytest.mark.parametrize(
    ("way", "part"), [({"status": 404}, "404"), ({"status": 403}, "403"), ({"status": 302, "headers": {}}, "302")]
)
def test_an_answer_that_no_waiting_mends_is_one_line_at_once(server, path, way, part):
    server.ways += [way]
    fails(server, path, f"it answers {part}", "--url")
    assert len(server.ranges) == 1


def test_a_server_that_is_too_busy_is_asked_again(server, path):
    server.ways += [{"status": 503}, {"status": 429}]
    download(server.url, path, MOST)
    assert path.read_bytes() == CONTENT


def test_a_server_that_says_nothing_is_not_waited_for(path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fails(f"http://127.0.0.1:{silent.getsockname()[1]}/x", path, "timed out")


def test_a_server_that_is_not_there_is_one_line(path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    fails(f"http://127.0.0.1:{port}/x", path, "refused")


ADDRESSES = "x  ftp://a/b  file:///etc/passwd  http://  http://a b/c  http://[1  http://a:99999/x  http://é/x  https:/a"


@pytest.mark.parametrize("url", ["", "http://a\n/b", "http://a:x/", *ADDRESSES.split("  ")])
def test_what_is_no_address_is_one_line(path, url):
    fails(url, path, "--url is", "expected an address")
