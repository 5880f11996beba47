"""The settings of the trainer that are compared."""

from mdistiller.engine.precision import fastest_settings

EXACT = {"AMP": "none", "CHANNELS_LAST": True, "COMPILE": False}


def precisions(device, may_compile=True):
    """Values of SOLVER's keys for float32 and for what else `device` can do, by name, then the same compiled."""
    fast = fastest_settings(device)
    settings = {"float32": EXACT}
    if fast["AMP"] != "none":
        settings[fast["AMP"]] = EXACT | {"AMP": fast["AMP"]}
    if may_compile and fast["COMPILE"]:
        settings |= {f"{name}, compiled": values | {"COMPILE": True} for name, values in settings.items()}
    return settings


def settings_of(device, may_compile=True):
    """`precisions`, and float32 without channels-last; the name of the one that --fast gives says so."""
    settings = precisions(device, may_compile) | {"float32, channels-last off": EXACT | {"CHANNELS_LAST": False}}
    fast = fastest_settings(device)
    return {name + " (--fast)" * (values == fast): values for name, values in settings.items()}


def main_settings(settings):
    """Of `settings_of` the default and the fastest."""
    return {name: values for name, values in settings.items() if name == "float32" or "--fast" in name}


def with_settings(cfg, values):
    cfg = cfg.clone()
    cfg.SOLVER.update(values)
    return cfg
