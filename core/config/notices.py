"""What a config asks for that does nothing in its run, in its phase or beside its other keys; and what it asks of a
student that this never learnt."""

from collections.abc import Iterable
from pathlib import Path

from core.config.sections import Config, DistillSection, SampleSection

Reasons = dict[str, str]  # full path of a key -> why its value does nothing
CHAIN = ("solver", "steps", "key_steps", "eta", "start", "prior_noise", "decode")  # what makes a chain
Case = tuple[object, str, list[str]]  # whether anything asks for some keys, why not, and which


def without_effect(config: Config) -> Reasons:
    """The keys that do nothing in the run of a checked config, whatever their value."""
    reasons = {
        f"datasets.{name}.num_workers": "that of datasets.train is for all sets" for name in config.datasets.further
    }
    if config.phase == "distill":
        reasons["train.loss"] = "a distillation has the losses of the section distill"
    else:
        reasons |= {f"datasets.{name}.pixel_weight": "only a distillation has it" for name in config.datasets.training}
    if config.phase == "distill" and "distill" in config:
        reasons |= without_effect_on_a_student(config.distill)
    return reasons | without_effect_on_a_chain(config.sample, config.model.beta_schedule.val.n_timestep)


def without_effect_on_a_student(options: DistillSection) -> Reasons:
    """Those of the section `distill`: where a loss has no weight, what is only for that loss does nothing."""
    asks_perceptual = options.perceptual_network and options.perceptual_weight
    cases: list[Case] = [
        (options.feature_weight, "feature_weight is 0", ["level_weights"]),
        (options.adversarial_weight, "adversarial_weight is 0", ["head_channels", "head_lr", "pixel_head"]),
        (options.adversarial_weight, "adversarial_weight is 0", ["perceptual_heads"]),
        (options.perceptual_network, "there is no perceptual_network", ["perceptual_weight", "perceptual_heads"]),
        (asks_teacher(options), "no loss asks the teacher", ["teacher_noise", "teacher_noise_power"]),
        (asks_teacher(options) or asks_perceptual, "no loss asks a network that judges", ["shift"]),
    ]
    return not_asked("distill", cases)


def without_effect_on_a_chain(options: SampleSection, n_timestep: int) -> Reasons:
    """Those of the section `sample`, whatever the image: what is only for another solver, for groups of steps, or for
    tiles. n_timestep: of the noise schedule."""
    from model.sampling.plan import SamplingPlan, automatic  # imports torch

    plan = SamplingPlan.check(options.key_steps, options.steps, n_timestep)
    key_steps = automatic(options.key_steps) or len(plan.key_steps)
    cases: list[Case] = [
        (plan.steps > 1, "the only step is the last, which adds no noise", ["eta"]),
        (options.solver == "ddim", f"the solver is {options.solver}, and only ddim has it", ["eta"]),
        (key_steps > 1, "the first step is the only key step", ["prior_noise"]),
        (options.decode == "every", f"decode is {options.decode}", ["decode_batch"]),
        (key_steps < plan.steps, "every step is a key step", ["decode", "decode_batch"]),
        (options.tile != 0, "tile is 0", ["overlap"]),
    ]
    return not_asked("sample", cases)


def untaught(student: Config, options: SampleSection) -> list[str]:
    """The keys of the section `sample` that make another chain of a network than its distillation taught it, by the
    config that it has from there; none of a diffusion network, which follows any chain."""
    if student.phase != "distill":
        return []
    idle = without_effect_on_a_chain(options, student.model.beta_schedule.val.n_timestep)
    one_call = options.steps == 1  # whose solver and key steps make no difference
    keys = ("steps", "start") if one_call else CHAIN
    return [key for key in keys if options[key] != student.sample[key] and f"sample.{key}" not in idle]


def of_another_chain(name: str | Path, student: Config, mend: str, other: str = "a diffusion network") -> str:
    """The line on a student that is asked for a chain which it never learnt; other: what to take for such chains."""
    steps = student.sample.steps
    calls = "1 call" if steps == 1 else f"{steps} calls"
    return f"{name} learnt only one chain, of {calls}: {mend}, or name {other} with -r for others"


def not_asked(section: str, cases: Iterable[Case]) -> Reasons:
    return {f"{section}.{key}": why for asked, why, keys in cases if not asked for key in keys}


def asks_teacher(options: DistillSection) -> bool:
    """Whether a part of the loss that counts sees the teacher's features, as those of the discriminator's heads do."""
    return bool(options.feature_weight or options.texture_weight or options.adversarial_weight)


def sections_without_effect(config: Config) -> Reasons:
    """Sections that do nothing in the run, and train.val_freq, of which the default asks for validations too."""
    reasons = {}
    betas = config.model.beta_schedule
    if config.phase == "train" and "distill" in config:
        reasons["distill"] = "the phase is train"
    if config.phase == "distill" and betas.train != betas.val:
        reasons["model.beta_schedule.train"] = "a student learns by beta_schedule.val, with which it samples"
    if config.phase != "val" and not config.datasets.validation:
        reasons["train.val_freq"] = "there is no datasets.val"
    return reasons


def is_of_another_phase(path: str, config: Config) -> bool:
    """Whether nobody expects an effect of a key in the config's phase: a validation reads nothing of the training."""
    return config.phase == "val" and path.startswith(("train.", "datasets.train"))
