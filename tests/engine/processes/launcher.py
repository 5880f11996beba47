"""Starts several processes as torchrun does, without its agent."""

import os
import socket
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[3]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(size, *arguments, **environment):
    """`size` processes of Python with `arguments`; each is told which one it is."""
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    shared |= {"OMP_NUM_THREADS": 1, "PYTHONPATH": PROJECT, **environment}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {k: str(v) for k, v in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )
        for rank in range(size)
    ]


def run(size, *arguments, **environment):
    """The first process's output, when all have ended well."""
    processes = start(size, *arguments, **environment)
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == size * [0], "\n".join(err for _, err in ends)
    return ends[0][0]
