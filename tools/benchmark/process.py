"""An object in a process of its own."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import torch


class OwnProcess:
    """What `make(*arguments)` returns, in a process of its own: its methods are called there.

    What our trainer sets for its process, how memory is kept above all, does not reach the plain way so.
    """

    def __init__(self, make, *arguments):
        settings = torch.get_num_threads(), multiprocessing.get_start_method()
        spawn = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, spawn, initializer=_set_up_process, initargs=settings)
        self.executor.submit(_make_here, make, arguments).result()

    def __getattr__(self, name):
        return lambda *arguments: self.executor.submit(_call_here, name, arguments).result()

    def close(self):
        self.executor.shutdown()


def _set_up_process(threads, start_method):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the benchmark, and with it this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    multiprocessing.set_start_method(start_method, force=True)  # of the loader's workers


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_here(make, arguments):
    OwnProcess.here = make(*arguments)


def _call_here(name, arguments):
    return getattr(OwnProcess.here, name)(*arguments)
