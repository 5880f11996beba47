"""How this process was started: alone, or by torchrun as one of several, of which one has the last word."""

import contextlib
import datetime
import os
import uuid

import torch
import torch.distributed as dist

from mdistiller.errors import UserError
from mdistiller.share import Share

NUMBERS = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"
WAIT = datetime.timedelta(seconds=5)  # for torchrun's store
FOR_A_WORD = datetime.timedelta(seconds=1)


class Launch:
    """What torchrun says, by environment variables, of this process: its number among all and on this machine.

    restarts: how often the processes have been started anew. Raises UserError where the environment tells of several
    processes and not, or not rightly, which of them this one is.
    """

    def __init__(self) -> None:
        numbers = dict.fromkeys(NUMBERS, 0) | {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
        if os.environ.get("WORLD_SIZE") not in (None, "", "1"):
            numbers = {name: number_in(name) for name in NUMBERS}
            rank, size, here, on_machine, port = numbers.values()
            if not (rank < size and here < on_machine <= size and port < 2**16 and os.environ.get("MASTER_ADDR")):
                raise not_of_torchrun("RANK")
        self.share = Share(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_WORLD_SIZE"])
        self.number_on_machine = numbers["LOCAL_RANK"]
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.restarts = int(restarts) if restarts.isdigit() else 0
        self.key = f"mdistiller/{self.restarts}"

    @property
    def name(self) -> str:
        """Of the launch, the same in each of its processes and after each restart; empty without torchrun."""
        with contextlib.suppress(Exception):
            if "TORCHELASTIC_RESTART_COUNT" in os.environ:
                return self.store().compare_set("mdistiller/launch", "", uuid.uuid4().hex).decode()
        return ""

    def has_the_word(self, reason: str) -> bool:
        """Whether this process is the one that tells how they ended; the first that asks, with its reason, is."""
        if self.share.size == 1:
            return True
        try:
            store = self.store()
            is_first_to_ask = store.add(f"{self.key}/asked", 1) == 1
            if is_first_to_ask:
                store.set(f"{self.key}/reason", reason)
            return is_first_to_ask
        except Exception:  # there is no store yet, or it ended with the process that kept it
            return self.share.rank == 0 or not dist.is_initialized()

    def last_word(self) -> str | None:
        """The reason of the process that had the word, if there is one."""
        with contextlib.suppress(Exception):
            store = self.store()
            if store.add(f"{self.key}/asked", 0) > 0:
                store.set_timeout(FOR_A_WORD)
                return store.get(f"{self.key}/reason").decode()
        return None

    def store(self) -> dist.Store:
        """What all processes write to and read from."""
        address = os.environ["MASTER_ADDR"], number_in("MASTER_PORT")
        return dist.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=WAIT)


def number_in(name: str) -> int:
    """The number in an environment variable. Raises UserError where there is none."""
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise not_of_torchrun(name)
    return int(text)


def not_of_torchrun(name: str) -> UserError:
    return UserError(
        f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')!r}, and {name} or another variable is not as torchrun sets it; "
        "start several processes by torchrun, or one after unset WORLD_SIZE"
    )


def has_the_word(reason: str) -> bool:
    """As `Launch.has_the_word`, of this process."""
    try:
        return Launch().has_the_word(reason)
    except UserError:  # which is what is to be told
        return True


def last_word() -> str | None:
    """As `Launch.last_word`, of several processes."""
    launch = Launch()
    return launch.last_word() if launch.share.size > 1 else None


def select_device(name: str | None) -> torch.device:
    """The device called `name`; for None CUDA where there is one, else the CPU. Of several processes each has its own.

    Raises UserError where there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    launch = Launch()
    if launch.share.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UserError(f"--device {name} is one GPU for {launch.share.size} processes; type --device cuda")
        if launch.share.on_machine > torch.cuda.device_count():
            raise UserError(
                f"{launch.share.on_machine} processes were started here and there are {torch.cuda.device_count()} "
                "GPUs; give torchrun as many by --nproc_per_node, or type --device cpu"
            )
        name = f"cuda:{launch.number_on_machine}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device).item()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of what names none, such as kernels of a compiled network
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"device {name!r} is not available here; type --device cpu, or cuda on a GPU") from error
    return device
