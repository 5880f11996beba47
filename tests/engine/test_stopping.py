"""What ends a run from outside: a full disk, an output that nobody reads, a signal; what was saved stays whole."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mdistiller.engine import trainer as trainer_module
from mdistiller.engine import writing
from mdistiller.engine.board import EventFile
from mdistiller.engine.checkpoint import Checkpointer
from mdistiller.engine.cli import training_main
from mdistiller.engine.metrics import Result
from mdistiller.engine.runs import PROJECT
from mdistiller.engine.signals import Stopped, Stopper, held, stoppable
from mdistiller.engine.weights import read_weights
from mdistiller.errors import UserError
from tests.engine.conftest import TINY

TRAIN = ["--selected_model", "resnet8", "--device", "cpu", *TINY]
SCRIPT = f"""
import resource, signal, sys
from pathlib import Path
from mdistiller.engine import trainer
from mdistiller.engine.checkpoint import Checkpointer
from mdistiller.engine.cli import run_script, training_main
from mdistiller.engine.index import CIFAR100

utils, change, *arguments = sys.argv[1:]
exec(change)
sys.exit(run_script(training_main, CIFAR100, Path(utils), arguments or {TRAIN}))
"""
HEARD = "signal.signal({0}, signal.SIG_DFL if {0} != signal.SIGINT else signal.default_int_handler)\n"
STOP_IN_EPOCH_2 = """
evaluate, calls = trainer.evaluate, []

def stop(*arguments, **options):
    calls.append(1)
    if len(calls) == 2:
        import os
        os.kill(os.getpid(), signal.{})
    return evaluate(*arguments, **options)

trainer.evaluate = stop
"""


def run(script, change="", arguments=(), shell='"$@"', **options):
    """The script in a process of its own, with `change` made to it before; its status, output and errors."""
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", SCRIPT, script.utils, change, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=PROJECT, env=environment)


def only_line(result, status):
    assert result.returncode == status, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def check_files(script, epoch):
    """Whether all weights are whole, the last are of `epoch`, and nothing half-written is left."""
    assert not list(script.utils.rglob("*.tmp"))
    for path in script.utils.rglob("*.pth"):
        read_weights(path)
    (last,) = script.utils.glob("*/*/last.pth")
    assert torch.load(last, weights_only=True)["meta"]["epoch"] == epoch
    return next(script.utils.glob("*_log/*.log")).read_text()


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_ends_with_a_line_that_says_what_is_kept(script, name, status):
    # What started the tests may have them ignore it, as `nohup` does.
    result = run(script, HEARD.format(f"signal.{name}") + STOP_IN_EPOCH_2.format(name))
    assert result.returncode == status, result.stderr
    line, *command = result.stderr.splitlines()
    assert line.startswith(f"stopped by {name} in epoch 2; 3 of its 3 steps are kept in ") and "last.pth" in line
    assert command[0].startswith("Resume:") and "--resume" in command[-1]
    assert f"Stopped: stopped by {name} in epoch 2" in check_files(script, 1).replace("\n  ", " ")


def test_a_signal_that_the_script_was_started_to_ignore_does_not_end_it(script):
    result = run(script, STOP_IN_EPOCH_2.format("SIGHUP"), shell="trap '' HUP; \"$@\"")
    assert result.returncode == 0 and not result.stderr


def test_a_signal_in_a_write_waits_for_its_end():
    with pytest.raises(Stopped), stoppable():
        with held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            written = True
    assert written and not isinstance(signal.getsignal(signal.SIGTERM), Stopper)


def test_a_signal_that_comes_twice_at_once_is_one():
    stopper = Stopper()
    with pytest.raises(Stopped):
        stopper(signal.SIGTERM, None)
    stopper(signal.SIGTERM, None)


def test_a_second_ctrl_c_ends_at_once(script):
    change = "import os, time\ndef stuck(*_, **__):\n    try:\n        os.kill(os.getpid(), 2)\n        time.sleep(9)\n"
    change += "    finally:\n        time.sleep(0.3)\n        os.kill(os.getpid(), 2)\n        time.sleep(9)\n"
    assert run(script, f"{HEARD.format('signal.SIGINT')}{change}trainer.evaluate = stuck").returncode in (
        130,
        -signal.SIGINT,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_ends_the_run_quietly(script, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    result = run(script, shell='"$@" | head -1; exit ${PIPESTATUS[0]}')
    assert result.returncode == 141 and not result.stderr and result.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("arguments", "unbuffered"), [((), ""), ((), "1"), (("--list",), "")])
def test_an_output_without_room_is_one_line(script, monkeypatch, arguments, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    line = only_line(run(script, arguments=arguments, shell='"$@" > /dev/full'), 2)
    assert line.startswith("error: cannot write to the standard output: No space left on device; ")


def test_closed_streams_do_not_end_a_run(script):
    assert run(script, shell='"$@" <&- >&- 2>&-').returncode == 0
    assert "Learning Time" in check_files(script, 2)


@pytest.mark.parametrize("limit", [0, 4096, 300_000, 400_000])
def test_files_that_cannot_grow_are_one_line(script, limit):
    change = f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)"
    line = only_line(run(script, change), 2)
    assert line.startswith("error: cannot write ") and "File too large" in line
    assert not list(script.utils.rglob("*.tmp"))


def refuse(number=errno.ENOSPC):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_weights_without_room_keep_those_before(script, monkeypatch, number):
    calls, fsync = [], os.fsync

    def at_epoch_2(handle):
        calls.append(handle)
        # Before it come the config and the first state; then best, published, last and metrics of epoch 1.
        return refuse(number)() if len(calls) == 7 else fsync(handle)

    monkeypatch.setattr(os, "fsync", at_epoch_2)
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: Result(1.0, 10.0 * len(calls), 90.0, 32))
    script(training_main, *TRAIN).fails_with("best.pth", os.strerror(number), "what was there before is kept")
    check_files(script, 1)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("place", range(1, 8))
def test_a_write_that_fails_anywhere_leaves_only_whole_files(script, monkeypatch, call, place):
    real, calls = getattr(os, call), []

    def fail(*arguments):
        calls.append(arguments)
        return refuse()() if len(calls) == place else real(*arguments)

    monkeypatch.setattr(os, call, fail)
    script(training_main, *TRAIN).fails_with("cannot write ", "No space left")
    assert not list(script.utils.rglob("*.tmp"))
    for path in script.utils.rglob("*.pth"):
        read_weights(path)


def test_a_log_without_room_loses_no_epoch(script, monkeypatch):
    write = trainer_module.RunLog.write

    def full(self, line):
        return refuse()() if line.startswith("Train Loss") else write(self, line)

    monkeypatch.setattr(trainer_module.RunLog, "write", full)
    script(training_main, *TRAIN).fails_with(".log", "No space left", "finished epochs are kept")
    check_files(script, 1)


def test_events_without_room_lose_no_epoch(script, monkeypatch):
    monkeypatch.setattr(EventFile, "add_scalars", refuse())
    script(training_main, *TRAIN).fails_with("experiment_", "No space left", "finished epochs are kept")
    check_files(script, 1)


def test_a_removed_folder_of_logs_is_one_line(script, monkeypatch):
    import shutil

    save, logs = Checkpointer.save, script.utils / "model_train_log"
    monkeypatch.setattr(Checkpointer, "save", lambda *args: (save(*args), shutil.rmtree(logs, ignore_errors=True)))
    script(training_main, *TRAIN).fails_with("was removed", "finished epochs are kept")


def test_an_error_of_torch_s_writer_is_the_system_s(tmp_path):
    with pytest.raises(UserError, match=r"w\.pth: No space left"), writing.atomic_write(tmp_path / "w.pth") as file:
        torch.save({"a": torch.ones(9)}, type("Full", (), {"write": refuse(), "flush": lambda _: None})())
        file.write(b"")
    assert not list(tmp_path.iterdir())


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(UserError, match="no file but"), writing.atomic_write(tmp_path / "null"):
        pass


def test_half_written_files_of_dead_processes_are_removed_and_those_of_living_stay(script):
    folder = script.utils / "model_pth" / "run"
    folder.mkdir(parents=True)
    dead, living, young = (folder / f".last.pth.{name}.tmp" for name in ("dead", "living", "young"))
    for path in (dead, living, young):
        path.write_bytes(b"half")
    for path in (dead, living):
        os.utime(path, (0, 0))
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        script(training_main, *TRAIN)
    assert script.status == 0 and not dead.exists() and living.exists() and young.exists()


def test_an_output_folder_that_is_a_dangling_link_is_named(script):
    (script.utils / "model_pth").symlink_to("/nowhere/weights")
    script(training_main, *TRAIN).fails_with("model_pth is a link to /nowhere/weights, which does not exist")


def test_an_output_folder_that_links_to_itself_is_named(script):
    (script.utils / "model_train_log").symlink_to("model_train_log")
    script(training_main, *TRAIN).fails_with("model_train_log is a link to model_train_log")


def test_a_file_in_place_of_an_output_folder_is_named(script):
    (script.utils / "model_train_log").write_text("")
    script(training_main, *TRAIN).fails_with("model_train_log is no folder; move it away")
