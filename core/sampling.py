"""From LR images to SR images as the `sample` section of a config says: the one way that everything here samples."""

from core.device import autocast
from core.errors import UserError
from model.conditioning import relative_scale
from model.sampler import SamplingPlan, sample

PASSED_ON = ("solver", "eta", "consistency", "start", "prior_noise", "decode_batch")


def super_resolve(
    network,
    lr,              # (B,3,h,w) in [-1,1], on any device
    size,            # (H,W) of the result
    settings,        # config["sample"]
    seeds,           # one an image: an image's noise depends on its seed alone
    factor,          # the magnification that the network was trained for, see `trained_factor`
    callback=None,   # callback(order, timestep, x, ŷ_0) after each denoising step
):                   # (B,3,H,W) float32 in [-1,1]
    """Super-resolves a batch on the network's device, in the precision that the settings ask for.

    Raises ModelError for a setting that the sampler cannot work with.
    """
    plan = sampling_plan(settings, network.schedule)
    device = next(network.parameters()).device
    scale = relative_scale(size, lr.shape[-2:], factor)
    options = {key: settings[key] for key in PASSED_ON}
    with autocast(device, settings["precision"]):
        sr = sample(network, lr.to(device), size, plan, seeds=seeds, scale=scale, callback=callback, **options)
    return sr.float().clamp(-1, 1)


def sampling_plan(settings, schedule):
    """The chain that the settings describe: every timestep where `steps` is null."""
    return SamplingPlan.parse(settings["key_steps"], settings["steps"], schedule.n_timestep)


def executed_plan(settings, schedule):
    """What is left of the chain where it begins at the noise level `start`."""
    plan = sampling_plan(settings, schedule)
    return plan if settings["start"] is None else plan.within(schedule.timestep_of(settings["start"]) + 1)


def trained_factor(config):
    """The magnification of a config's data: r_resolution / l_resolution, of the training set where there is one."""
    datasets = config["datasets"]
    if not datasets:
        raise UserError(f"{config['name']}: no datasets in the config, so it does not tell the magnification")
    spec = datasets.get("train") or next(iter(datasets.values()))
    return spec["r_resolution"] / spec["l_resolution"]


def describe_sampling(settings, schedule):
    """The settings in one line, for reports; what is off is not mentioned."""
    plan = executed_plan(settings, schedule)
    solver = f"ddim (eta {settings['eta']:g})" if settings["solver"] == "ddim" else settings["solver"]
    keys = f"encoder at {len(plan.key_steps)} of them (key steps {settings['key_steps']})"
    options = [f"{name} {settings[name]:g}" for name in ("consistency", "start", "prior_noise") if settings[name]]
    return ", ".join([solver, f"{plan.steps} of {plan.n_timestep} steps", keys, *options])
