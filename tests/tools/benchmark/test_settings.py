"""The settings that are compared."""

import torch

from mdistiller.engine.cfg import CFG
from tests.tools.benchmark.conftest import FAST
from tools.benchmark import settings


def test_settings_name_what_fast_gives_and_leave_out_what_the_device_cannot_do(monkeypatch):
    device = torch.device("cpu")
    assert list(settings.settings_of(device)) == [
        *("float32", "bf16", "float32, compiled", "bf16, compiled (--fast)", "float32, channels-last off")
    ]
    monkeypatch.setattr(settings, "fastest_settings", lambda device: FAST | {"AMP": "none", "COMPILE": False})
    found = settings.settings_of(device)
    assert list(found) == ["float32 (--fast)", "float32, channels-last off"]
    assert list(settings.main_settings(found)) == ["float32 (--fast)"]
    assert set(found["float32 (--fast)"]) <= set(CFG.SOLVER)
