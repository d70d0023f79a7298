"""From LR images to SR images as the `sample` section of a config says: the one way that everything here samples."""

import warnings

from core.device import autocast, automatic_precision
from model.conditioning import relative_scale
from model.sampler import SamplingPlan, sample

PASSED_ON = ("solver", "eta", "consistency", "start", "prior_noise", "decode", "decode_batch")


def super_resolve(
    network,
    lr,  # (B,3,h,w) in [-1,1], on any device
    size,  # (H,W) of the result
    settings,  # config.sample
    seeds,  # one an image: an image's noise depends on its seed alone
    factor,  # the magnification that the network was trained for, `config.magnification`
    callback=None,  # callback(order, timestep, x, ŷ_0) after each denoising step
):  # (B,3,H,W) float32 in [-1,1]
    """Super-resolves a batch on the network's device, in the precision that the settings ask for.

    Raises ModelError for a setting that the sampler cannot work with.
    """
    plan = sampling_plan(settings, network.schedule, network.encoder_change)
    device = next(network.parameters()).device
    scale = relative_scale(size, lr.shape[-2:], factor)
    options = {key: settings[key] for key in PASSED_ON}
    options |= {"seeds": seeds, "scale": scale, "compiled": settings.compile, "callback": callback}
    precision = settings.precision
    precision = automatic_precision(device, sampling=True) if precision == "auto" else precision
    with autocast(device, precision):
        sr = sample(network, lr.to(device), size, plan, **options)
    if precision != "float32" and not sr.isfinite().all():
        warnings.warn(f"values beyond the range of {precision}: sampled again in float32", stacklevel=2)
        return super_resolve(network, lr, size, settings.replace(precision="float32"), seeds, factor, callback)
    return sr.clamp(-1, 1)


def sampling_plan(settings, schedule, change=None):
    """The chain that the settings describe: every timestep where `steps` is null.

    `change` is the `encoder_change` of the network, which the key steps auto:N need.
    """
    executed = executed_timesteps(settings, schedule)
    return SamplingPlan.parse(settings.key_steps, settings.steps, schedule.n_timestep, change, executed)


def executed_plan(settings, schedule, change=None):
    """What is left of the chain where it begins at the noise level `start`."""
    return sampling_plan(settings, schedule, change).within(executed_timesteps(settings, schedule))


def executed_timesteps(settings, schedule):
    """How many timesteps there are from the noise level `start` on."""
    return schedule.n_timestep if settings.start is None else schedule.timestep_of(settings.start) + 1


def describe_sampling(settings, schedule, change=None):
    """The settings in one line, for reports; what is off is not mentioned."""
    plan = executed_plan(settings, schedule, change)
    solver = f"ddim (eta {settings.eta:g})" if settings.solver == "ddim" else settings.solver
    keys = f"encoder at {len(plan.key_steps)} of them (key steps {settings.key_steps})"
    options = [f"{name} {settings[name]:g}" for name in ("consistency", "start", "prior_noise") if settings[name]]
    if settings.decode != "every":
        options.insert(0, f"decode {settings.decode}")
    return ", ".join([solver, f"{plan.steps} of {plan.n_timestep} steps", keys, *options])
