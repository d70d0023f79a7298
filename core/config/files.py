"""A config as text: YAML, or JSON with // comments. What the keys mean is not known here."""

import json
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from core.config.wording import cut, show
from core.errors import UserError

LARGEST_FILE = 100_000  # characters; those of the project have 5,000
MOST_VALUES = 100_000  # of a config, each counted as often as an alias repeats it
DEEPEST = 50  # sections in sections


def is_config(path: str | Path) -> bool:
    """Whether a path is named as configs are, and not as checkpoints."""
    return Path(path).suffix.lower() in (".yaml", ".yml", ".json")


def read_file(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, or in a .json file with // comments; a key that is there twice is an error."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the config: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a config: it is not text in UTF-8") from None
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: not a config: it has more than {LARGEST_FILE:,} characters")
    config = (parse_json if Path(path).suffix.lower() == ".json" else parse_yaml)(content, path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a config: it has no section of keys")
    return config


def parse_json(text: str, source: str | Path) -> Any:
    """The value in a JSON text with // comments; `source` is what an error names."""
    try:
        return plain_copy(json.loads(strip_comments(text), object_pairs_hook=unique), source)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except ValueError:
        raise UserError(f"{source}: not JSON: a number has thousands of digits") from None
    except RecursionError:
        raise nested_without_end(source) from None
    except DuplicateKey as error:
        raise error.at(source, line_of_duplicate(text)) from None


def line_of_duplicate(text: str) -> int | None:
    """The line of a JSON text with // comments where a key is for the second time. JSON is YAML, which knows lines."""
    try:
        Loader(strip_comments(text).replace("\t", " ")).get_single_data()
    except DuplicateKey as error:
        return error.line
    except (yaml.YAMLError, RecursionError):
        pass
    return None


def strip_comments(text: str) -> str:
    """JSON without its // comments; strings, and so URLs, stay whole, and one that does not end, to its line's end."""
    return re.sub(r'("(?:\\.|[^"\\\n])*"?)|//[^\n]*', lambda match: match[1] or "", text)


def parse_yaml(text: str, source: str | Path) -> Any:
    """The value in a YAML text; `source` is what an error names."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (number := count_values(node, {})) > MOST_VALUES:
            if number == math.inf:
                raise nested_without_end(source)
            raise UserError(f"{source}: not a config: with its aliases it has more than {MOST_VALUES:,} values")
        return plain_copy(loader.construct_document(node), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{source}: {where}not YAML: {cut(problem, 200)}") from None
    except RecursionError:
        raise nested_without_end(source) from None
    except DuplicateKey as error:
        raise error.at(source, error.line) from None


def count_values(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values a node of YAML has, one for each place where an alias puts it; infinitely many, where it is in
    itself."""
    if node not in known:
        known[node] = math.inf  # while it is counted
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        flat = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        known[node] = 1 + sum(count_values(child, known) for child in flat)
    return known[node]


def plain_copy(value: Any, source: str | Path = "config", depth: int = 0) -> Any:
    """A copy in dicts and lists, none of which is in two places, as a YAML alias puts it: a change to one is none to
    the other."""
    if depth > DEEPEST:
        raise nested_without_end(source)
    if isinstance(value, Mapping):
        return {name: plain_copy(item, source, depth + 1) for name, item in value.items()}
    return [plain_copy(item, source, depth + 1) for item in value] if isinstance(value, list | tuple) else value


def nested_without_end(source: str | Path) -> UserError:
    return UserError(f"{source}: not a config: its sections are nested without end")


def dump_config(config: Mapping[str, Any]) -> str:
    """The config as YAML, which loads as the same config."""
    return yaml.dump(plain_copy(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


class DuplicateKey(Exception):
    """A key that is there twice in one section."""

    def __init__(self, key: Hashable, line: int | None = None) -> None:
        super().__init__(key)
        self.key, self.line = key, line

    def at(self, source: str | Path, line: int | None) -> UserError:
        """What is told of it."""
        where = "" if line is None else f"line {line}: "
        return UserError(f"{source}: {where}the key {show(self.key)} is there twice in one section: remove one of them")


def unique(pairs: Iterable[tuple[Hashable, Any]]) -> dict[Any, Any]:
    """The pairs as a dict, where no key is there twice."""
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if key in result:
            raise DuplicateKey(key)
        result[key] = value
    return result


class Loader(yaml.SafeLoader):
    """A SafeLoader that says what SafeLoader does not: which key is there twice, and which value is not what its tag or
    its form says, as 2026-02-30, `!!int x` and a number of thousands of digits are not."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            problem = f"{show(node.value)} cannot be read as {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            known = set()
            for key in keys:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in known:
                        raise DuplicateKey(key.value, key.start_mark.line + 1)
                    known.add(key.value)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """A section on lines of its own, a list on one."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


Dumper.add_representer(list, Dumper.represent_list)
