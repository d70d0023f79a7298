"""The table of all keys, which `python -m core.config` prints."""

from core.config.keys import Derived, Key, walk
from core.config.sections import Config
from core.config.wording import show


def table_of_keys() -> str:
    """Every key there is, in the shape of a YAML config: its default, what it means, what it may be."""
    lines = []
    for path, entry in walk(Config):
        label = "  " * path.count(".") + path.rpartition(".")[2] + ":"
        if isinstance(entry, Key):
            allowed = entry.value_type.allowed
            said = f"no effect: {entry.no_effect}" if entry.no_effect else f"{entry.meaning} ({allowed})"
            lines.append((f"{label} {default_of(entry)}", said))
        else:
            lines.append((label, entry.note))
    return "\n".join(f"{left:<44}# {right}" if right else left for left, right in lines)


def default_of(key: Key) -> str:
    return f"({key.default})" if isinstance(key.default, Derived) else show(key.default).strip("'")
