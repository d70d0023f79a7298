"""Damaged and hostile configs: each is read, or refused in one line, soon."""

import random
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from core.config import check_config, load_config
from tests.core.conftest import SMALL
from tests.fuzz.hostile import answers, count, damaged_bytes, damaged_value, nested

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "config").glob("*.yaml")) + sorted((ROOT / "config").glob("*.json"))
PIECES = [
    "&a [*a]", "*nothing",
    "!!python/object/apply:os.system [x]", "!!int x", "!!binary '?'", "2026-02-30", "9" * 10_000,
    nested(1000), "{a: 1, a: 2}", "? [1, 2]\n: 3", "\0", "\ufeff", "<<: [1]", "<<: {<<: *x}",
    "|\n  text", "- - - -", "'",
    "&a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]",
    "\n".join(f"k{n}: {n}" for n in range(9000)),
]  # fmt: skip

leaves = some.none() | some.booleans() | some.integers() | some.floats() | some.text() | some.binary() | some.dates()
values = some.recursive(leaves, lambda inner: some.lists(inner) | some.dictionaries(leaves, inner), max_leaves=20)


def paths(section, prefix=()):
    """The path of each key in nested dicts."""
    for key, value in section.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@settings(max_examples=count(100, 1000), deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(some.sampled_from(list(paths(SMALL))), values)
def test_any_value_of_any_key(path, value):
    def put(section, path):
        return {**section, path[0]: put(section[path[0]], path[1:]) if path[1:] else value}

    with answers(f"{path} = {value!r}"):
        check_config(put(SMALL, path))


def damaged_text(content, rng):
    lines = content.decode("utf-8", "replace").splitlines()
    at = rng.randrange(len(lines))
    key = lines[at].partition(":")[0]
    lines[at] = rng.choice((f"{key}: {rng.choice(PIECES)}", rng.choice(PIECES), lines[at] * 2, "", "  " + lines[at]))
    return "\n".join(lines).encode("utf-8", "replace")


def test_damaged_files(tmp_path):
    for seed in range(count(60, 1000)):
        rng = random.Random(seed)
        source = rng.choice(CONFIGS)
        content = source.read_bytes()
        kind = rng.random()
        if kind < 0.4 and source.suffix == ".yaml":
            damaged = damaged_value(yaml.safe_load(content), rng)
            content = yaml.dump(damaged, allow_unicode=True).encode("utf-8", "surrogatepass")
        else:
            content = damaged_text(content, rng) if kind < 0.7 else damaged_bytes(content, rng)
        (file := tmp_path / f"config{source.suffix}").write_bytes(content)
        with answers(f"config {seed}"):
            load_config(file)
