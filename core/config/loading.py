"""Configs of a run: a file, as the command line changes it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.config.checking import check_config, nearest, section_of, set_value
from core.config.files import parse_yaml, read_file
from core.config.keys import Subsection, walk
from core.config.sections import Config, DatasetsSection, is_validation_set
from core.config.wording import cut, is_utf8
from core.errors import UserError


def load_config(
    path: str | Path,  # a .json file (// comments allowed), or a YAML file
    overrides: Iterable[str] = (),  # "KEY=VALUE", VALUE as in YAML, KEY a key's full path or an unambiguous tail of it
    flags: Mapping[str, Any] | None = None,  # {full path: value} of other command-line flags; None: not given
    flag_names: Mapping[str, str] | None = None,  # {full path: the flag, as an error names it}
) -> Config:
    """The config of a run. Overrides win over flags, and these over the file. Null for an optional section, or for the
    root of a set of validation images, leaves it out.

    Raises UserError, with one line that names the file (or the override), the key and what is allowed.
    """
    return config_for_run(read_file(path), str(path), overrides, flags, flag_names)


def config_for_run(
    given: dict[str, Any],  # as a file gives it; changed in place
    source: str,  # what an error names
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    flag_names: Mapping[str, str] | None = None,
) -> Config:
    """As `load_config`, of a config that is not in a file of its own."""
    origins = {}
    for key, value in (flags or {}).items():
        if value is not None:
            set_value(given, key, value)
            origins[key] = (flag_names or {}).get(key, "command line")
    origins |= override(given, overrides)
    leave_out_sets(given)
    return check_config(given, source, origins, for_run=True)


def override(given: dict[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """Puts overrides into a config as it was read -> {full path: the override, as an error names it}."""
    origins = {}
    for text in overrides:
        path, value = parse_override(text, given)
        set_value(given, path, value)
        origins[path] = f"--set {cut(text)}"
    return origins


def parse_override(text: str, given: Mapping[str, Any]) -> tuple[str, Any]:
    """ "KEY=VALUE" -> (full path of the key, value), for a config as it was read."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise UserError(f"--set {cut(text)}: must be KEY=VALUE, as in --set train.optimizer.lr=2e-4")
    if not is_utf8(value):
        mend = "rename that file or folder, or name a link to it"
        raise UserError(f"--set {cut(text)}: has bytes that are not UTF-8, which a config cannot hold; {mend}")
    new = parse_yaml(value, f"--set {cut(text)}")
    return full_path(key, given, may_be_section=new is None), new


def leave_out_sets(given: dict[str, Any]) -> None:
    """Removes the sets of validation images of which every root that is named is null."""
    sets = section_of(given, "datasets")
    for name in filter(is_validation_set, list(sets)):
        images = section_of(sets, name)
        roots = [images[key] for key in ("dataroot", "hr_dataroot") if key in images]
        if roots and not any(roots):
            del sets[name]


def full_path(key: str, given: Mapping[str, Any], may_be_section: bool = False) -> str:
    """The only path that is `key` or ends with it: a key's, or where it may be, an optional section's."""
    sets = [*section_of(given, "datasets"), *re.findall(r"^datasets\.([^.]+)\.", key)]
    entries = dict(walk(Config)) | dict(walk(DatasetsSection, dict.fromkeys(sets), "datasets."))
    matches = [key] if key in entries else [path for path in entries if path.endswith("." + key)]
    if not matches:
        raise UserError(f"--set {cut(key)}: unknown key ({nearest(key)})")
    if len(matches) > 1:
        raise UserError(f"--set {key}: which one? {', '.join(matches)}")
    entry = entries[matches[0]]
    if isinstance(entry, Subsection) and not (entry.optional and may_be_section):
        raise UserError(f"--set {key}: a section; set the keys in it, {', '.join(entry.section.entries())}")
    return matches[0]
