import multiprocessing

import pytest

from mdistiller.engine.owner import LOCK, owned
from mdistiller.errors import UserError

FORK = multiprocessing.get_context("fork")


def hold(folder, ready):
    with owned(folder):
        ready.set()
        while True:
            pass


@pytest.fixture
def owner(tmp_path):
    """A process that owns the run in `tmp_path`."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_run_that_goes_on_is_refused_with_the_process_that_has_it(tmp_path, owner):
    with pytest.raises(UserError, match=f"goes on in process {owner.pid} on "), owned(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, owner):
    owner.kill()
    owner.join()
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*No such file"), owned(tmp_path / "missing"):
        pass
