"""The table of all keys, which `python -m core.config` prints, and docs/configuration.md, which it writes."""

from core.config.keys import Derived, Key, Section, Subsection, walk
from core.config.sections import Config
from core.config.wording import show

INTRODUCTION = """# Configuration

Every key of a config, with its default, the values that it accepts, and its meaning. `python -m core.config` prints the
same on the terminal. `python -m core.config FILE` checks a config, fills in the defaults and prints the result.

A config is a YAML file. The published JSON files, with `//` comments, work too. The files in [config/](../config) are
complete examples with comments. To change one key for one run, add `--set KEY=VALUE` to the command line, for example
`--set train.optimizer.lr=2e-4`. The last part of the name is enough where no other key ends in it: `--set lr=2e-4`.

This page is generated from `core/config/sections.py`, by `python -m core.config --markdown > docs/configuration.md`.
A test compares the two.
"""
COLUMNS = "| key | default | values | meaning |\n| --- | --- | --- | --- |"


def table_of_keys() -> str:
    """Every key, in the shape of a YAML config: its default, its meaning, the values that it accepts."""
    lines = []
    for path, entry in walk(Config):
        label = "  " * path.count(".") + path.rpartition(".")[2] + ":"
        if isinstance(entry, Key):
            lines.append((f"{label} {default_of(entry)}", f"{meaning_of(entry)} ({entry.value_type.allowed})"))
        else:
            lines.append((label, entry.note))
    return "\n".join(f"{left:<44}# {right}" if right else left for left, right in lines)


def configuration_page() -> str:
    """docs/configuration.md: a heading and a table for each section."""
    sections = ["## Top level", *tables_of(Config, "")]
    for path, entry in walk(Config):
        if isinstance(entry, Subsection):
            sections += [f"## `{path}`", *filter(None, [entry.note]), *tables_of(entry.section, f"{path}.")]
    return "\n\n".join([INTRODUCTION.rstrip("\n"), *sections]) + "\n"


def tables_of(section: type[Section], prefix: str) -> list[str]:
    """The table of a section's own keys, if it has any, and the links to the sections in it."""
    entries = section.entries()
    rows = [row_of(name, entry) for name, entry in entries.items() if isinstance(entry, Key)]
    inner = [prefix + name for name, entry in entries.items() if isinstance(entry, Subsection)]
    links = ", ".join(f"[`{path}`](#{path.replace('.', '')})" for path in inner)
    table = ["\n".join([COLUMNS, *rows])] if rows else []
    return table + ([f"Sections: {links}."] if inner else [])


def row_of(name: str, key: Key) -> str:
    cells = f"`{name}`", code(default_of(key)), key.value_type.allowed, meaning_of(key)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def code(default: str) -> str:
    return default.strip("()") if default.startswith("(") else f"`{default}`"


def meaning_of(key: Key) -> str:
    return f"no effect: {key.no_effect}" if key.no_effect else key.meaning


def default_of(key: Key) -> str:
    return f"({key.default})" if isinstance(key.default, Derived) else show(key.default).strip("'")
