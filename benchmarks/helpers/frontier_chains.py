"""The chains that benchmarks/frontier.py compares: their names, their settings, and why some are left out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.helpers.reports import matching
from benchmarks.helpers.trained_network import Setting
from core.config import PRESETS, changed
from core.config.files import is_config, read_file
from core.config.sections import SampleSection
from core.errors import UserError
from core.sampling.super_resolution import Sampling
from model.errors import did_you_mean
from model.sampling.plan import NAMED_SETS, automatic

Settings = dict[str, Any]  # keys of the section `sample` and their values

FAST = ((10, 20, 50, 100, 250), (2, 4, 5, 10, 20, 50))
SOLVERS = {"ddim": FAST, "dpm++": FAST, "ddpm": ((2000,), (2, 5, 10, 20, 50))}  # name -> (steps, the K of uniform:K)
NAMED = {  # steps -> the named key steps: those listed for about so many steps; all of them, for the longest chain
    50: ("50ls", "50ls2", "50ls3", "50ls4", "s2", "pro"),
    100: ("75ls", "100ls", "pro"),
    2000: tuple(NAMED_SETS),
}
DECODE_BATCH = 50  # steps, where a group may be of any length: no more memory than uniform:50 takes
LIKE = "auto like "  # before the key steps that tell N
NO_CALIBRATION = "the checkpoint has no calibration; to add it: python -m core.calibrate -r CHECKPOINT"


def default_chains() -> dict[str, Settings]:
    """{name: what it changes in the settings}; the presets of infer.py come first."""
    chains = {f"preset-{name}": settings for name, settings in PRESETS.items()}
    for solver, (lengths, intervals) in SOLVERS.items():
        for steps in lengths:
            for name, reuse in ways_to_reuse(steps, intervals).items():
                chains[f"{solver}{steps}-{name}"] = {"solver": solver, "steps": steps, "decode": "every"} | reuse
    return chains


def ways_to_reuse(steps: int, intervals: Iterable[int]) -> dict[str, Settings]:
    """{name: its settings} for a chain of so many steps; none that computes what another one does."""
    ways: dict[str, Settings] = {"none": {"key_steps": "none"}}
    for k in (k for k in intervals if k <= steps):
        ways[f"u{k}"] = {"key_steps": f"uniform:{k}"}
        if k > 2:  # a group of two has nothing but ends
            ways[f"u{k}-ends"] = ways[f"u{k}"] | {"decode": "ends"}
        ways[f"u{k}-first"] = ways[f"u{k}"] | {"decode": "first"}
        if k < steps:  # a single key step is the first
            ways[f"auto{k}"] = {"key_steps": f"{LIKE}uniform:{k}", "decode_batch": DECODE_BATCH}
    return ways | {name: {"key_steps": name, "decode_batch": DECODE_BATCH} for name in NAMED.get(steps, ())}


def named_chains(asked: str) -> dict[str, Settings]:
    """{name: changes to the settings} of --chains."""
    if is_config(asked):
        chains = read_file(asked)
        if not isinstance(chains, dict) or not all(isinstance(changes, dict) for changes in chains.values()):
            raise UserError(f"{asked}: must be names of chains, each with keys of `sample` and their values")
        return chains
    every = default_chains()
    return {name: every[name] for name in matching(every, asked, lambda pattern: no_chain(pattern, every))}


def no_chain(pattern: str, every: Iterable[str]) -> str:
    """What to say of a pattern that fits none of the names."""
    begin = ", ".join(name.removesuffix("none") for name in every if name.endswith("-none"))
    return f"--chains {pattern}: no chain has such a name{did_you_mean(pattern, every)} (they begin with {begin})"


def chains_of(names: str, setting: Setting) -> tuple[dict[str, Sampling], dict[str, str]]:
    """({name: Sampling}, {name: why it is left out}) of --chains."""
    chains, left_out = {}, {}
    for name, changes in named_chains(names).items():
        asked = setting.config.sample.to_dict() | changes
        schedule, change = setting.network.schedule, setting.encoder_change
        if isinstance(asked["steps"], int) and asked["steps"] > schedule.n_timestep:
            left_out[name] = f"the schedule has {schedule.n_timestep} timesteps"
            continue
        settings = checked(setting, name, asked | {"key_steps": automatic_keys(asked, setting, name)})
        if change is None and automatic(settings.key_steps):
            left_out[name] = NO_CALIBRATION
        else:
            chains[name] = Sampling.of(settings, schedule, change)
    if not chains:
        raise UserError(f"--chains {names}: none can be measured: {'; '.join(by_reason(left_out))}")
    return chains, left_out


def automatic_keys(settings: Settings, setting: Setting, name: str) -> Any:
    """The key steps of the settings; of "auto like" others, auto:N with as many encoder calls."""
    keys = settings["key_steps"]
    if not (isinstance(keys, str) and keys.startswith(LIKE)):
        return keys
    like = checked(setting, name, settings | {"key_steps": keys.removeprefix(LIKE)})
    return f"auto:{len(Sampling.of(like, setting.network.schedule).executed.key_steps)}"


def checked(setting: Setting, name: str, settings: Settings) -> SampleSection:
    return changed(setting.config, {"sample": settings}, f"chain {name}").sample


def by_reason(left_out: Mapping[str, str]) -> dict[str, str]:
    """{name: why} -> {why: names}"""
    reasons = defaultdict(list)
    for name, reason in left_out.items():
        reasons[reason].append(name)
    return {reason: ", ".join(names) for reason, names in reasons.items()}
