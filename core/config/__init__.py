"""Configs: typed sections of keys, read from a file, overridden by the command line, filled with defaults, checked.

config = load_config("config/demo.yaml", ["lr=1e-4"])
config.train.optimizer.lr, config["train"]["optimizer"]["lr"]

`sections` declares every key; `rules` says what keys must be to each other; `checking` applies both to what `files`
reads and `loading` overrides; `presets` are choices of a whole `sample` section.
"""

from core.config.checking import changed, check_config, config_notices
from core.config.loading import load_config
from core.config.presets import PRESETS
from core.config.sections import Config

__all__ = ["PRESETS", "Config", "changed", "check_config", "config_notices", "load_config"]
