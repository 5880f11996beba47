"""Which run the processes go on with that torchrun has started anew."""

import contextlib
from collections.abc import Iterable

from mdistiller.errors import UserError

from .launch import Launch
from .resume import Place
from .weights import read_meta


def run_of(launch: Launch, runs: Iterable[Place]) -> str | None:
    """The name of the newest of `runs` that `launch` began before; None where it began none, or has just begun."""
    if not (launch.restarts and launch.name):
        return None
    for place in runs:
        for path in (place.files().last, place.files().previous):
            with contextlib.suppress(UserError):
                if path.is_file() and read_meta(path).get("launch") == launch.name:
                    return place.name
    return None
