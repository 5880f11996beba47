"""How this process was started: alone, or by torchrun as one of several, of which one has the last word."""

import contextlib
import datetime
import os

import torch.distributed as dist

from mdistiller.errors import UserError
from mdistiller.share import Share

NUMBERS = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"
WAIT = datetime.timedelta(seconds=5)  # for torchrun's store
FOR_A_WORD = datetime.timedelta(seconds=1)


class Launch:
    """What torchrun says, by environment variables, of this process: its number among all and on this machine.

    name: of the launch, the same in each of its processes and after each restart; restarts: so far. Raises UserError
    where the environment tells of several processes and not which of them this one is.
    """

    def __init__(self) -> None:
        numbers = dict.fromkeys(NUMBERS, 0) | {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
        if (size := os.environ.get("WORLD_SIZE", "1")) != "1":
            for name in NUMBERS:
                text = os.environ.get(name, "")
                if not (text.isascii() and text.isdigit()) or not os.environ.get("MASTER_ADDR"):
                    raise UserError(
                        f"WORLD_SIZE is {size!r}, and {name} or MASTER_ADDR is not as torchrun sets it; start several "
                        "processes by torchrun, or one after unset WORLD_SIZE"
                    )
                numbers[name] = int(text)
        self.share = Share(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_WORLD_SIZE"])
        self.number_on_machine, self.port = numbers["LOCAL_RANK"], numbers["MASTER_PORT"]
        self.name = os.environ.get("TORCHELASTIC_RUN_ID", "")
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.restarts = int(restarts) if restarts.isdigit() else 0
        self.key = f"mdistiller/{self.restarts}"

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
        except Exception:  # the store ended with the process that kept it
            return self.share.rank == 0

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
        return dist.TCPStore(
            os.environ["MASTER_ADDR"], self.port, is_master=False, wait_for_workers=False, timeout=WAIT
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
