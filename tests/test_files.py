import os

import pytest

from mdistiller.files import open_regular


def test_a_regular_file_is_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe, socket or device"):
        open_regular(tmp_path / "pipe")


def test_a_link_to_a_device_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="pipe, socket or device"):
        open_regular(tmp_path / "link")


def test_a_path_with_a_zero_character_is_an_error_of_the_system():
    with pytest.raises(OSError, match="zero character"):
        open_regular("a\0b")
