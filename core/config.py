"""Configs: read from YAML or from JSON with // comments, overridden by the command line, filled with defaults, checked.

python -m core.config                          prints every key there is
python -m core.config FILE [--set KEY=VALUE]   checks a config and prints it whole, as YAML
"""

import argparse
import copy
import sys
from difflib import get_close_matches

from core.config_file import dump_config, parse_yaml, read_file, unshared
from core.cross_checks import CROSS_CHECKS, check_run, validation_sets
from core.errors import UserError, one_line_errors
from core.schema import REQUIRED, SCHEMA, SECTION_NOTES, Derived, schema_for, walk


def load_config(path, overrides=(), flags=None):
    """The config of a run: a plain nested dict with every key of the schema, in its order.

    path       a .json file (// comments allowed), or a YAML file
    overrides  texts "KEY=VALUE", VALUE as in YAML, KEY a key's full path or an unambiguous tail of it
    flags      {full path: value} of other command-line flags; None is a flag that was not given; overrides win

    Raises UserError, with one line that names the file (or the override), the key and what is allowed.
    """
    config, origins = read_file(path), {}
    for key, value in (flags or {}).items():
        if value is not None:
            set_value(config, key, value)
            origins[key] = "command line"
    for override in overrides:
        key, value = parse_override(override, config)
        set_value(config, key, value)
        origins[key] = f"--set {_cut(override)}"
    return check_config(config, str(path), origins, for_run=True)


def check_config(config, source="config", origins=None, for_run=False):
    """The config with all values converted and all defaults filled; what is given stays as it is.

    The sections `train` and `datasets.*` may be absent, as they are no use to inference; `for_run` demands those that
    the config's phase needs. `source` is the file that an error names, `origins` {full path: what to name instead}.

    Raises UserError, which tells the first problem, and how many more there are.
    """
    problems = []

    def report(path, problem):
        where = (origins or {}).get(path, source)
        problems.append(f"{where}: {problem}")

    if not isinstance(config, dict):
        raise UserError(f"{source}: a config is a section of keys, not {_show(config)}")
    config = _with_derived_defaults(config)
    checked = _read_section(config, _schema_of(config), "", report)
    if not problems:
        for check in (check_run, *CROSS_CHECKS) if for_run else CROSS_CHECKS:
            for path, problem in check(checked):
                report(path, f"{path} {problem}")
    if problems:
        more = f" ({len(problems) - 1} more after this)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    return checked


def config_notices(config):
    """One line for each key of a checked config whose value asks for something that does nothing here."""
    notices = [
        f"{path} has no effect: {key.no_effect}"
        for path, key in walk(_schema_of(config))
        if not isinstance(key, dict) and key.no_effect and _get(config, path) != key.default
    ]
    if config["phase"] == "train" and not validation_sets(config):
        notices.append("train.val_freq has no effect: there is no datasets.val")
    return notices


# ---------------------------------------------------------------------------------------------------------------------
# Overrides.


def parse_override(override, config):
    """ "KEY=VALUE" -> (full path of the key, value), for a config as it was read."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not key or not equals:
        raise UserError(f"--set {_cut(override)}: must be KEY=VALUE, as in --set train.optimizer.lr=2e-4")
    return _full_path(key, config), parse_yaml(text, f"--set {_cut(override)}")


def _full_path(key, config):
    """The only path that is `key` or ends with it."""
    names = key.split(".")
    sets = ["train", "val", *_section(config, "datasets"), *(names[1:2] if names[0] == "datasets" else ())]
    paths = dict(walk(schema_for(sets)))
    matches = [key] if key in paths else [path for path in paths if path.endswith("." + key)]
    if not matches:
        raise UserError(f"--set {key}: unknown key ({_nearest(key)})")
    if len(matches) > 1:
        raise UserError(f"--set {key}: which one? {', '.join(matches)}")
    if isinstance(paths[matches[0]], dict):
        raise UserError(f"--set {key}: a section; set the keys in it, {', '.join(paths[matches[0]])}")
    return matches[0]


def set_value(config, path, value):
    """Puts a value at its full path, with the sections that are missing on the way."""
    *sections, name = path.split(".")
    for section in sections:
        config = config.setdefault(section, {})
        if not isinstance(config, dict):
            return  # what stands in place of a section is the check's to report
    config[name] = value


def _get(config, path):
    for name in path.split("."):
        config = config[name]
    return config


# ---------------------------------------------------------------------------------------------------------------------
# The check of each key by itself.


def _read_section(given, schema, prefix, report):
    """A section's values, converted, in the order of the schema, and with its defaults."""
    for name in given:
        if name not in schema:
            path = f"{prefix}{name}"
            report(path, f"unknown key {path} ({_nearest(path)})")
    values = {}
    for name, entry in schema.items():
        path = prefix + name
        if isinstance(entry, dict):
            section = given.get(name, {})
            if isinstance(section, dict):
                values[name] = _read_section(section, entry, path + ".", report)
            else:
                report(path, f"{path} is {_show(section)}, but must be a section of keys ({{}} for all its defaults)")
        elif name in given:
            values[name] = _read_value(given[name], entry, path, report)
        elif entry.default is REQUIRED:
            report(path, f"{path} is missing: {entry.meaning} ({entry.kind.allowed})")
        else:
            values[name] = copy.copy(entry.default)
    return values


def _read_value(value, key, path, report):
    try:
        return key.kind.read(value)
    except ValueError:
        quotes = " (in quotes)" if key.kind.allowed.startswith("text") and not isinstance(value, str) else ""
        report(path, f"{path} is {_show(value)}, but must be {key.kind.allowed}{quotes}")
        return None


def _with_derived_defaults(given):
    """A copy with those defaults that depend on what else is given."""
    given = unshared(given)
    given.setdefault("sparse", {"enabled": False})
    if isinstance(given["sparse"], dict):
        given["sparse"].setdefault("enabled", True)
    for name, images in _section(given, "datasets").items():
        if isinstance(images, dict):
            images.setdefault("name", str(name))
    betas = _section(_section(given, "model"), "beta_schedule")
    if "train" in betas:
        betas.setdefault("val", unshared(betas["train"]))
    return given


def _schema_of(config):
    """The schema with just those of its optional sections that a config has."""
    schema = schema_for(_section(config, "datasets"))
    return {name: entry for name, entry in schema.items() if name != "train" or name in config}


def _section(given, name):
    """A section that may be absent or wrong: then an empty one."""
    section = given.get(name)
    return section if isinstance(section, dict) else {}


def _nearest(path):
    """The known key that an unknown path most likely means: of its name in another section, or of a similar one."""
    known = [known for known, _ in walk(SCHEMA)]
    if path in known:
        return "a dot does not make a section: nest the keys"
    section, _, name = path.rpartition(".")
    if same := [other for other in known if other.rpartition(".")[2] == name]:
        matches = same[:3]
    else:
        siblings = [other for other in known if other.rpartition(".")[0] == section]
        matches = get_close_matches(path, siblings, 1) or get_close_matches(path, known, 1, cutoff=0)
    return f"nearest known key: {' or '.join(matches)}"


def _show(value):
    """A value in one short line."""
    line = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return _cut(" ".join(line.split()))


def _cut(line):
    return line if len(line) <= 60 else line[:57] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# Printing.


def reference():
    """Every key there is, in the shape of a YAML config: its default, what it means, what it may be."""
    lines = []
    for path, entry in walk(SCHEMA):
        label = "  " * path.count(".") + path.rpartition(".")[2] + ":"
        if isinstance(entry, dict):
            lines.append((label, SECTION_NOTES.get(path, "")))
        else:
            said = f"no effect: {entry.no_effect}" if entry.no_effect else f"{entry.meaning} ({entry.kind.allowed})"
            lines.append((f"{label} {_default(entry)}", said))
    return "\n".join(f"{left:<44}# {right}" if right else left for left, right in lines)


def _default(key):
    return f"({key.default})" if isinstance(key.default, Derived) else _show(key.default).strip("'")


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m core.config", description="Print every key of a config, or check a config and print it whole."
    )
    parser.add_argument("config", nargs="?", help="a YAML file, or JSON with // comments; without: the table of keys")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    args = parser.parse_args(argv)
    if args.config is None:
        print(reference())
        return
    config = load_config(args.config, args.set)
    for notice in config_notices(config):
        print(f"note: {notice}", file=sys.stderr)
    print(dump_config(config), end="")


if __name__ == "__main__":
    main()
