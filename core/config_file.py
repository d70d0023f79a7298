"""A config as text: YAML, or JSON with // comments. What the keys mean is not known here."""

import json
import math
import re
from pathlib import Path

import yaml

from core.errors import UserError


def read_file(path):
    """The mapping in a YAML file, or in a .json file with // comments; a key that is there twice is an error."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a config: it is not text in UTF-8") from None
    try:
        config = unshared((parse_json if Path(path).suffix.lower() == ".json" else parse_yaml)(text, path))
    except RecursionError:
        raise UserError(f"{path}: not a config: its sections are nested without end") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a config: it has no section of keys")
    return config


def parse_json(text, source):
    """The value in a JSON text with // comments; `source` is what an error names."""
    try:
        return json.loads(strip_comments(text), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except DuplicateKey as error:
        raise UserError(f"{source}: the key {error} is there twice in one section") from None


def strip_comments(text):
    """JSON without its // comments; strings, and so URLs, stay whole."""
    return re.sub(r'("(?:\\.|[^"\\\n])*")|//[^\n]*', lambda match: match[1] or "", text)


def parse_yaml(text, source):
    """The value in a YAML text; `source` is what an error names."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-02-30
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{source}: {where}not YAML: {problem}") from None
    except DuplicateKey as error:
        raise UserError(f"{source}: the key {error} is there twice in one section") from None


def unshared(value):
    """A copy in which no section is in two places, as a YAML alias puts it: a change to one is none to the other."""
    if isinstance(value, dict):
        return {key: unshared(item) for key, item in value.items()}
    return [unshared(item) for item in value] if isinstance(value, list) else value


def dump_config(config):
    """The config as YAML, which loads as the same config."""
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class DuplicateKey(Exception):
    """A key that is there twice in one section."""


def unique(pairs):
    """The pairs as a dict, where no key is there twice."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise DuplicateKey(key)
    return dict(pairs)


class Loader(yaml.SafeLoader):
    """SafeLoader lets the last of two equal keys win, without a word; this one does not."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            unique([(key.value, None) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"])
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """A section on lines of its own, a list on one."""

    def ignore_aliases(self, data):
        return True

    def represent_list(self, data):
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


Dumper.add_representer(list, Dumper.represent_list)
