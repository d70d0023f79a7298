"""What a config asks for that does nothing in its run: in its phase, or beside its other keys."""

from core.config.sections import Config, DistillSection

Reasons = dict[str, str]  # full path of a key -> why its value does nothing


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
    return reasons


def without_effect_on_a_student(options: DistillSection) -> Reasons:
    """Those of the section `distill`: where a loss has no weight, what is only for that loss does nothing."""
    asks_perceptual = options.perceptual_network and options.perceptual_weight
    cases = [
        (options.feature_weight, "feature_weight is 0", ["level_weights"]),
        (options.adversarial_weight, "adversarial_weight is 0", ["head_channels", "head_lr", "pixel_head"]),
        (options.adversarial_weight, "adversarial_weight is 0", ["perceptual_heads"]),
        (options.perceptual_network, "there is no perceptual_network", ["perceptual_weight", "perceptual_heads"]),
        (asks_teacher(options), "no loss asks the teacher", ["teacher_noise", "teacher_noise_power"]),
        (asks_teacher(options) or asks_perceptual, "no loss asks a network that judges", ["shift"]),
    ]
    return {f"distill.{key}": why for asked, why, keys in cases if not asked for key in keys}


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
