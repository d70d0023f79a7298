"""The config that a file of a network holds, which a newer version of the project may have written."""

from typing import Any

from core.config.checking import check_config
from core.config.keys import Section, Subsection
from core.config.sections import Config
from core.config.wording import readable

OF_RESULT = ("model", "sample")  # sections that say what the network makes of an image
NEWER = "the file was probably written by a newer version of this project, or by another program"
SHOWN = 3  # keys in a notice


def check_saved_config(config: Any, file: str) -> tuple[Config, list[str]]:
    """-> (the checked config of a file, the full paths of keys that are passed over), as this version does not know
    them and the result does not depend on them. `config`: nested dicts, changed in place.

    Raises UserError for any other that is unknown, and for all that `check_config` refuses.
    """
    passed = take_unknown(config, Config) if isinstance(config, dict) else []
    return check_config(config, file, advice=f"{NEWER}: update the project"), passed


def take_unknown(given: dict[str, Any], cls: type[Section], prefix: str = "") -> list[str]:
    """Takes unknown keys out of a section, but for sections that tell the result -> their full paths.

    A newer version writes all keys that this one knows. Where one is missing, an unknown one may be that one, renamed
    or damaged, and stays to be refused.
    """
    if prefix.removesuffix(".") in OF_RESULT:
        return []
    entries = cls.entries(given)
    missing = [name for name, entry in entries.items() if name not in given and not is_optional(entry)]
    unknown = [] if missing else [name for name in given if name not in entries]
    for name in unknown:
        del given[name]
    paths = [f"{prefix}{readable(name)}" for name in unknown]
    for name, entry in entries.items():
        if isinstance(entry, Subsection) and isinstance(given.get(name), dict):
            paths += take_unknown(given[name], entry.section, f"{prefix}{name}.")
    return paths


def is_optional(entry: Any) -> bool:
    return isinstance(entry, Subsection) and entry.optional


def passed_over(paths: list[str], file: str) -> str:
    """A line on keys that were passed over."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{file}: unknown keys of its config are passed over, {', '.join(paths[:SHOWN])}{more}: {NEWER}"
