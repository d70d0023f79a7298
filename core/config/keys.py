"""What a section of a config is: a frozen dataclass, each of whose fields is a key or a section in it."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from core.config.files import plain_copy
from core.config.value_types import ValueType
from core.errors import UserError

S = TypeVar("S", bound="Section")


class Key(NamedTuple):
    """One key. `no_effect` says why a published key that is accepted does nothing here."""

    value_type: ValueType
    default: Any
    meaning: str
    no_effect: str = ""


class Subsection(NamedTuple):
    """A section within another. `note` is what the table of all keys says of it; an optional one may be absent."""

    section: "type[Section]"
    note: str = ""
    optional: bool = False


Entry = Key | Subsection


class Derived(str):
    """A default that depends on other keys, in words."""

    __slots__ = ()


REQUIRED = Derived("required")


def key(value_type: ValueType, default: Any, meaning: str, no_effect: str = "") -> Any:
    """The field of a section that is a key."""
    metadata = {"entry": Key(value_type, default, meaning, no_effect)}
    if isinstance(default, Derived):
        return field(metadata=metadata)
    return field(default_factory=lambda: copy.copy(default), metadata=metadata)


def section(note: str = "", optional: bool = False) -> Any:
    """The field of a section that is a section itself, of the class that annotates it."""
    metadata = {"note": note, "optional": optional}
    return field(default_factory=lambda: None, metadata=metadata) if optional else field(metadata=metadata)


class MissingSection(UserError, AttributeError):
    """An optional section was asked for that the config does not have."""


class Section(Mapping[str, Any]):
    """A section: its keys are attributes, `config.train.optimizer.lr`. An optional section that is absent has none.

    It is a mapping as well, `config["train"]["optimizer"]["lr"]`, in which what is absent is missing.
    """

    def __post_init__(self) -> None:
        for name, entry in self.entries().items():
            if isinstance(entry, Subsection) and entry.optional and vars(self).get(name) is None:
                vars(self).pop(name, None)

    def values_by_name(self) -> dict[str, Any]:
        return vars(self)

    def __getitem__(self, name: str) -> Any:
        return self.values_by_name()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name())

    def __len__(self) -> int:
        return len(self.values_by_name())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    if not TYPE_CHECKING:  # a checker would take any attribute to be there

        def __getattr__(self, name: str) -> Any:
            if name in type(self).entries():
                raise MissingSection(f"this config has no section {name}, which is needed here")
            raise AttributeError(f"{type(self).__name__} has no key {name}")

    def replace(self: S, **changes: Any) -> S:
        """A copy with other values, which are not checked; `core.config.changed` checks them."""
        return type(self)(**{**vars(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, for JSON and YAML."""
        return plain_copy(self)

    @classmethod
    def entries(cls, given: Iterable[Any] | None = None) -> dict[str, Entry]:
        """Name -> what it is, of all that the section may have; `given` are the names that one in a file has."""
        return {each.name: entry_of(each) for each in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def of(cls: type[S], values: Mapping[str, Any]) -> S:
        """The section of nested plain values that are right and complete."""
        made = {}
        for name, entry in cls.entries(values).items():
            if name in values:
                made[name] = entry.section.of(values[name]) if isinstance(entry, Subsection) else values[name]
        return cls.from_values(made)

    @classmethod
    def from_values(cls: type[S], values: dict[str, Any]) -> S:
        return cls(**values)


def entry_of(each: "Field[Any]") -> Entry:
    metadata = each.metadata
    return metadata["entry"] if "entry" in metadata else Subsection(each.type, metadata["note"], metadata["optional"])  # type: ignore[arg-type]


def walk(cls: type[Section], given: Mapping[str, Any] | None = None, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """(full path, entry) of all that a section may have, or that a given one has; sections before what is in them."""
    for name, entry in cls.entries(given).items():
        if given is not None and name not in given:
            continue
        yield prefix + name, entry
        if isinstance(entry, Subsection):
            yield from walk(entry.section, given and given[name], f"{prefix}{name}.")
