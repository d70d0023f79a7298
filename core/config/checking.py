"""From nested dicts, as a file gives them, to a Config: every value read, every default filled, every rule kept."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

from core.config.files import plain_copy
from core.config.keys import REQUIRED, Key, Section, Subsection, walk
from core.config.notices import is_of_another_phase, sections_without_effect, without_effect
from core.config.rules import RULES, RUN_RULES
from core.config.sections import Config
from core.config.wording import cut, readable, show
from core.errors import UserError

LONGEST_MESSAGE = 600  # characters

Report = Callable[..., None]  # report(full path of a key, what is wrong, hint=a function that says what may be meant)


def check_config(
    config: Mapping[str, Any],  # nested dicts, or a Config
    source: str = "config",  # the file that an error names
    origins: Mapping[str, str] | None = None,  # {full path of a key: what an error names instead}
    for_run: bool = False,
    advice: str = "",  # on any problem, in place of hints at what was mistyped
) -> Config:
    """The config with all values converted and all defaults filled; what is given stays as it is.

    The sections `train` and `datasets.*` may be absent, as they are no use to inference; `for_run` demands those that
    the config's phase needs.

    Raises UserError, which tells the first problem, and how many more there are.
    """
    problems: list[str] = []

    def report(path: str, problem: str, hint: Callable[[], str] = str) -> None:
        where = (origins or {}).get(path, source)
        mend = "" if problems else advice or hint()  # one problem is told, the others counted
        problems.append(cut(f"{where}: {problem}", LONGEST_MESSAGE) + (f" ({mend})" if mend else ""))

    if not isinstance(config, Mapping):
        raise UserError(f"{source}: a config is a section of keys, not {show(config)}")
    given = with_derived_defaults(plain_copy(config, source))
    values = read_section(given, Config, "", report)
    if not problems:
        checked = Config.of(values)
        for rule in (*RUN_RULES, *RULES) if for_run else RULES:
            for path, problem in rule(checked):
                report(path, f"{path} {problem}")
    if problems:
        more = f" ({len(problems) - 1} more after this)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    return checked


def changed(
    config: Config, changes: Mapping[str, Any], source: str = "config", origins: Mapping[str, str] | None = None
) -> Config:
    """The config with other values, {full path: value, or {key: value} for a whole section}, checked as by
    `check_config`."""
    values = config.to_dict()
    for path, value in changes.items():
        set_value(values, path, value)
    return check_config(values, source, origins)


def set_value(config: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value at its full path, with the sections that are missing on the way."""
    *sections, name = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
        if not isinstance(config, dict):
            return  # what stands in place of a section is the check's to report
    config[name] = plain_copy(value)


def config_notices(config: Config) -> list[str]:
    """One line for each key of a checked config whose value asks for something that does nothing here."""
    here = without_effect(config)
    reasons = {
        path: key.no_effect or here[path]
        for path, key in walk(Config, config)
        if isinstance(key, Key) and (key.no_effect or path in here) and at(config, path) != key.default
    }
    reasons |= sections_without_effect(config)
    return [f"{path} has no effect: {why}" for path, why in reasons.items() if not is_of_another_phase(path, config)]


def at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a full path."""
    value: Any = config
    for name in path.split("."):
        value = value[name]
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Each key by itself.


def read_section(given: Mapping[Any, Any], cls: type[Section], prefix: str, report: Report) -> dict[str, Any]:
    """A section's values, converted, in the order of its class, and with its defaults."""
    entries = cls.entries(given)
    for name in given:
        if name not in entries:
            path = f"{prefix}{readable(name)}"
            report(path, f"unknown key {path}", partial(nearest, path))
    values: dict[str, Any] = {}
    for name, entry in entries.items():
        path = prefix + name
        if isinstance(entry, Subsection):
            section = given.get(name, None if entry.optional else {})
            if section is None and entry.optional:
                continue
            if isinstance(section, dict):
                values[name] = read_section(section, entry.section, path + ".", report)
            else:
                report(path, f"{path} is {show(section)}, but must be a section of keys ({{}} for all its defaults)")
        elif name in given:
            values[name] = read_value(given[name], entry, path, report)
        elif entry.default is REQUIRED:
            report(path, f"{path} is missing: {entry.meaning} ({entry.value_type.allowed})")
        else:
            values[name] = plain_copy(entry.default)
    return values


def read_value(value: Any, key: Key, path: str, report: Report) -> Any:
    allowed = key.value_type.allowed
    try:
        return key.value_type.read(value)
    except ValueError:
        report(path, f"{path} is {show(value)}, but must be {allowed}", partial(meant, value, allowed))
        return None


def meant(value: Any, allowed: str) -> str:
    """What may be meant by a value that is not allowed: "in quotes" for 7 where a text is asked for, "0.15 is 15 %" for
    15 where a share of at most 1 is; else ""."""
    if allowed.startswith("text") and not isinstance(value, str):
        return "in quotes"
    is_share = allowed.startswith("a number") and allowed.endswith(("1]", "1)"))
    is_percent = isinstance(value, int | float) and not isinstance(value, bool) and 10 <= value <= 100
    return f"{value / 100:g} is {value:g} %" if is_share and is_percent else ""


def with_derived_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Fills those defaults that depend on what else is given."""
    given.setdefault("sparse", {"enabled": False})
    if isinstance(given["sparse"], dict):
        given["sparse"].setdefault("enabled", True)
    for name, images in section_of(given, "datasets").items():
        if isinstance(images, dict):
            images.setdefault("name", str(name))
    betas = section_of(section_of(given, "model"), "beta_schedule")
    if "train" in betas:
        betas.setdefault("val", plain_copy(betas["train"]))
    return given


def section_of(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section that may be absent or wrong: then an empty one."""
    section = given.get(name)
    return section if isinstance(section, dict) else {}


# ---------------------------------------------------------------------------------------------------------------------
# In words.


def nearest(path: str) -> str:
    """The known key that an unknown path most likely means: of its name in another section, or of a similar one."""
    known = [known for known, _ in walk(Config)]
    if path in known:
        return "a dot does not make a section: nest the keys"
    section, _, name = path.rpartition(".")
    if same := [other for other in known if other.rpartition(".")[2] == name]:
        matches = same[:3]
    else:
        siblings = [other for other in known if other.rpartition(".")[0] == section]
        matches = get_close_matches(path, siblings, 1) or get_close_matches(path, known, 1, cutoff=0)
    return f"nearest known key: {' or '.join(matches)}"
