"""What the keys of a config must be to each other.

Each rule takes a config whose keys are right one by one, and yields (full path of the key to change, what is wrong).
"""

from collections.abc import Iterator

from core.config.sections import Config, DegradationSection
from core.config.wording import show

MOST_CALLS = 8  # steps of a student: all of them are in memory at once
Problems = Iterator[tuple[str, str]]

NEEDED = {  # phase -> the sections that it needs
    "train": ("train", "datasets.train"),
    "val": ("datasets.val",),
    "distill": ("train", "datasets.train", "distill"),
}


def check_run(config: Config) -> Problems:
    """What a run needs that inference does not: the sections of its phase, where their images come from, and key steps
    that a network in training can be validated with."""
    there = {*config, *(f"datasets.{name}" for name in config.datasets)}
    if config.datasets.validation:
        there.add("datasets.val")  # under whatever name
    for section in NEEDED[config.phase]:
        if section not in there:
            yield section, f"is missing: phase {config.phase} needs this section"
    training = config.phase != "val"
    for name, images in (config.datasets if training else config.datasets.validation).items():
        if not images.dataroot and not images.hr_dataroot:
            key = "hr_dataroot" if images.lr_dataroot else "dataroot"
            yield f"datasets.{name}.{key}", "is missing: images come from dataroot, or hr_dataroot and lr_dataroot"
    if training and (config.datasets.validation or config.phase == "distill"):
        from model.sampling.plan import automatic  # imports torch

        if automatic(config.sample.key_steps):
            problem = "but it needs a measurement, which a network in training has not: take uniform:K"
            yield "sample.key_steps", f"is {config.sample.key_steps}, {problem}"


def check_images(config: Config) -> Problems:
    for name, images in config.datasets.items():
        path = f"datasets.{name}"
        low, high = images.l_resolution, images.r_resolution
        if low > high:
            yield f"{path}.l_resolution", f"is {low}, but must be at most r_resolution, {high}"
        for key in ("hr_dataroot", "lr_dataroot"):
            if images.dataroot and images[key]:
                yield f"{path}.{key}", "is given beside dataroot: name one or the other"
        if images.hr_dataroot and images.datatype == "lmdb":
            yield f"{path}.datatype", "is lmdb, but must be img for hr_dataroot, or dataroot the LMDB"
        if images.lr_dataroot and images.use_crop and high % low:
            yield f"{path}.r_resolution", f"is {high}, but must be a multiple of l_resolution, {low}: crops align"
        shrinks = images.get("shrink", [1, 1]) != [1, 1]
        if shrinks and not images.use_crop:
            yield f"{path}.shrink", f"is {show(images.shrink)}, but it is for crops: set use_crop to true"
        makes_lr = {"degradation": "degradation" in images, "jitter": "jitter" in images, "shrink": shrinks}
        for key, given in makes_lr.items():
            if given and images.lr_dataroot and images.mode == "LRHR":
                yield f"{path}.lr_dataroot", f"is given beside {key}, which makes LR of HR: leave one of them out"
        for n, (lr_side, hr_side, _) in enumerate(images.get("sizes", ())):
            if not lr_side < hr_side <= high:
                allowed = f"the LR side smaller than the HR side, and that at most r_resolution, {high}"
                yield f"{path}.sizes", f"has {lr_side} -> {hr_side} at place {n}, but must have {allowed}"
        if "degradation" in images:
            yield from check_degradation(images.degradation, f"{path}.degradation")


def check_degradation(degradation: DegradationSection, path: str) -> Problems:
    if degradation.blur_kernel_size % 2 == 0:
        yield f"{path}.blur_kernel_size", f"is {degradation.blur_kernel_size}, but must be odd: a kernel has a centre"
    for key in ("kernel_prob", "resize_prob"):
        if not sum(degradation[key]):
            yield f"{path}.{key}", f"is {show(degradation[key])}, but one of its weights must be above 0"
    low, high = degradation.resize_range
    if not low <= 1 <= high:
        yield f"{path}.resize_range", f"is [{low:g}, {high:g}], but 1 must be between: from there images go up or down"


def check_unet(config: Config) -> Problems:
    unet, image_size = config.model.unet, config.model.diffusion.image_size
    channels, groups = unet.inner_channel, unet.norm_groups
    if channels % 2:
        yield "model.unet.inner_channel", f"is {channels}, but must be even: its halves are sines and cosines of γ"
    # The first GroupNorm sees inner_channel channels; all others, those on a concatenated skip too, see a multiple.
    if not groups:
        if unet.attn_res or unet.mid_attention:
            yield (
                "model.unet.norm_groups",
                "is 0, which goes with attn_res [] and mid_attention false: attention has a norm",
            )
    elif channels % groups:
        divisors = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
        yield "model.unet.norm_groups", f"is {groups}, but must divide inner_channel, {channels}: {divisors}"
    sizes = [image_size // 2**level for level in range(len(unet.channel_multiplier))]
    for size in unet.attn_res:
        if size not in sizes:
            allowed = ", ".join(map(str, sizes))
            yield "model.unet.attn_res", f"has {size}, but levels of diffusion.image_size are {allowed}"


def check_betas(config: Config) -> Problems:
    for phase, betas in config.model.beta_schedule.items():
        first, last = betas.linear_start, betas.linear_end
        if first > last:
            yield f"model.beta_schedule.{phase}.linear_start", f"is {first:g}, but must be at most linear_end, {last:g}"


def check_sparse(config: Config) -> Problems:
    sparse = config.sparse
    if not sparse.enabled or "train" not in config or config.train.optimizer.type != "sgd":
        return
    for key, rule in (("prune", "magnitude_variance"), ("redistribution", "variance")):
        if sparse[key] == rule:
            yield f"sparse.{key}", f"is {rule}, which needs the second moment of adam or adamw, not sgd"
    if config.train.optimizer.momentum == 0 and "momentum" in sparse.growth + sparse.redistribution:
        yield "train.optimizer.momentum", "is 0, but the growth or redistribution by momentum needs some"


def check_sampling(config: Config) -> Problems:
    from model.errors import ModelError  # imports torch
    from model.sampling.plan import SamplingPlan

    sample, n_timestep = config.sample, config.model.beta_schedule.val.n_timestep
    if (sample.steps or 1) > n_timestep:
        allowed = f"at most model.beta_schedule.val.n_timestep, {n_timestep}"
        yield "sample.steps", f"is {sample.steps}, but must be {allowed}"
        return
    try:
        SamplingPlan.check(sample.key_steps, sample.steps, n_timestep)
    except ModelError as error:
        yield "sample.key_steps", f"is not a plan: {error}"


def check_distillation(config: Config) -> Problems:
    """What a student can be trained to do: DDIM without noise, from the up-sampled LR image. And what teaches it."""
    if config.phase != "distill":
        return
    sample = config.sample
    if sample.solver != "ddim" or sample.eta:
        key = "eta" if sample.solver == "ddim" else "solver"
        yield f"sample.{key}", f"is {sample[key]}, but a student is trained for solver ddim, with eta 0"
    if sample.start is None:
        yield "sample.start", "is null, but a student starts from the LR image: give a noise level, as 0.35"
    if sample.steps is None or sample.steps > MOST_CALLS:
        yield "sample.steps", f"is {sample.steps or 'null'}, but a student makes 1 to {MOST_CALLS} steps"
    for key in ("decode", "prior_noise"):
        if sample[key] not in ("every", 0):
            yield f"sample.{key}", f"is {sample[key]}, which a student is not trained for"
    weights = config.distill.level_weights if "distill" in config else []
    if weights and not any(weights):
        yield "distill.level_weights", f"is {show(weights)}, but one of its weights must be above 0"
    alone = config.distill.heads_first if "distill" in config else 0
    if "train" in config and alone >= config.train.n_iter:
        yield "distill.heads_first", f"is {alone}, but must be less than train.n_iter ({config.train.n_iter})"
    if alone and not config.distill.adversarial_weight:
        yield (
            "distill.heads_first",
            f"is {alone}, but needs distill.adversarial_weight above 0, or heads teach nobody",
        )


RULES = (check_images, check_unet, check_betas, check_sparse, check_sampling)
RUN_RULES = (check_run, check_distillation)
