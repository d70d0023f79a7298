"""The config that a file of a network holds, which a newer version of the project may have written."""

from typing import Any

from core.config.checking import check_config
from core.config.keys import Section, Subsection
from core.config.sections import Config
from core.config.wording import readable

OF_RESULT = ("model", "sample")  # sections that say what the network makes of an image
NEWER = "the file was probably written by a newer version of this project, or by another program"
SHOWN = 3  # keys in a notice

Unknown = dict[tuple[str, ...], Any]  # {the names of its sections and its own: value} of each unknown key


def check_saved_config(config: Any, file: str) -> tuple[Config, Unknown]:
    """-> (the checked config of a file, what is passed over), as this version does not know it and the result does not
    depend on it. `config`: nested dicts, changed in place.

    Raises UserError for any other key that is unknown, and for all that `check_config` refuses.
    """
    unknown = take_unknown(config, Config) if isinstance(config, dict) else {}
    return check_config(config, file, advice=f"{NEWER}: update the project"), unknown


def take_unknown(given: dict[str, Any], cls: type[Section], place: tuple[str, ...] = ()) -> Unknown:
    """Takes unknown keys out of a section, but for sections that tell the result.

    A newer version writes all keys that this one knows. Where one is missing, an unknown one may be that one, renamed
    or damaged, and stays to be refused.
    """
    if place and place[0] in OF_RESULT:
        return {}
    entries = cls.entries(given)
    missing = [name for name, entry in entries.items() if name not in given and not is_optional(entry)]
    names = [] if missing else [name for name in given if name not in entries]
    unknown = {(*place, name): given.pop(name) for name in names}
    for name, entry in entries.items():
        if isinstance(entry, Subsection) and isinstance(given.get(name), dict):
            unknown |= take_unknown(given[name], entry.section, (*place, name))
    return unknown


def put_back(unknown: Unknown, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a file, as nested dicts which are changed, with what `take_unknown` took out of it."""
    for (*sections, name), value in unknown.items():
        section = config
        for each in sections:
            section = section.get(each, {})
        section[name] = value
    return config


def is_optional(entry: Any) -> bool:
    return isinstance(entry, Subsection) and entry.optional


def passed_over(unknown: Unknown, file: str) -> str:
    """A line on keys that were passed over."""
    paths = [".".join((*sections, readable(name))) for *sections, name in unknown]
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{file}: unknown keys of its config are passed over, {', '.join(paths[:SHOWN])}{more}: {NEWER}"
