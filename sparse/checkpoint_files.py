"""The network file of a checkpoint, by what a command line calls it: a file, a PREFIX of PREFIX_gen.*, or a folder."""

import re
from pathlib import Path

SUFFIXES = (".safetensors", ".pth")


def find_network_file(path: Path) -> Path | None:
    """The file that `path` is or is the PREFIX of, or that of the latest checkpoint in a folder; None without one."""
    latest = latest_prefix(path) if path.is_dir() else None
    candidates = [path] if path.suffix in SUFFIXES else []
    candidates += [Path(f"{latest or path}{kind}{suffix}") for kind in ("_gen", "") for suffix in SUFFIXES]
    return next((file for file in candidates if file.is_file()), None)


def latest_prefix(folder: str | Path, whole: bool = False) -> Path | None:
    """The prefix of the checkpoint with the most steps in a folder, or None; whole: of those with a training file."""
    found = []
    for file in Path(folder).glob("*_gen.*"):
        match = re.fullmatch(r"(I(\d+)_E\d+)_gen\.(safetensors|pth)", file.name)
        if match and (not whole or file.with_name(file.name.replace("_gen.", "_opt.")).is_file()):
            found.append((int(match[2]), file.with_name(match[1])))
    return max(found)[1] if found else None
