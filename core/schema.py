"""Every key of a config: its type, its default, what it means. `python -m core.config` prints this table.

The table has the shape of a config: a section is a dict, a key has a line of its own.
"""

from typing import Any, NamedTuple

from core.kinds import (
    Kind,
    anything,
    choice,
    count,
    count_or_zero,
    either,
    exactly,
    flag,
    folder_name,
    list_of,
    mapping,
    number,
    optional,
    seed,
    text,
    text_or_null,
    true,
)
from model.sampler import DECODES
from model.schedule import SCHEDULES
from sparse.allocation import INITIAL_DENSITIES
from sparse.growth import GROWTH_RULES
from sparse.importance import REDISTRIBUTION_RULES
from sparse.prune import PRUNE_RULES
from sparse.schedule import PRUNE_RATE_SCHEDULES


class Key(NamedTuple):
    """One key of a config. `no_effect` says why a published key that is accepted does nothing here."""

    kind: Kind
    default: Any
    meaning: str
    no_effect: str = ""


class Derived(str):
    """A default that depends on other keys, in words."""

    __slots__ = ()


REQUIRED = Derived("required")


precision = choice("auto", "float32", "bf16")
sampling_precision = choice("auto", "float32", "bf16", "fp16")
beta_shape = choice(*SCHEDULES)
initial_densities = choice(*INITIAL_DENSITIES)
prune_rule = choice(*PRUNE_RULES)
growth_rule = choice(*GROWTH_RULES)
importance = choice(*REDISTRIBUTION_RULES, nonzeros="nonzero")
prune_rate_schedule = choice(*PRUNE_RATE_SCHEDULES)
key_steps = either(text, list_of(count_or_zero))

_IMAGES = {
    "name": Key(text, Derived("its section"), "what logs and reports call these images"),
    "mode": Key(choice("LRHR", "HR"), "LRHR", "LRHR reads LR and HR images; HR reads HR alone and makes LR of it"),
    "dataroot": Key(text_or_null, None, "what prepare_data.py wrote (lr_L/ and hr_R/, or an LMDB), or HR images"),
    "hr_dataroot": Key(text_or_null, None, "a folder of HR images, in place of dataroot"),
    "lr_dataroot": Key(text_or_null, None, "a folder of their LR images; without it, LR is made of HR"),
    "datatype": Key(choice("img", "lmdb"), "img", "folders of images, or an LMDB"),
    "l_resolution": Key(count, REQUIRED, "side of an LR image, or of a crop of one, in pixels"),
    "r_resolution": Key(count, REQUIRED, "side of an HR image, or of a crop of one, in pixels"),
    "sample_q": Key(anything, None, "", "the published code does not use it either"),
    "batch_size": Key(count, 1, "images of a batch, in each process"),
    "num_workers": Key(count_or_zero, 4, "processes that read images; 0: the main process reads"),
    "augment": Key(flag, False, "flip images at random"),
    "use_shuffle": Key(flag, False, "accepted; training always shuffles, validation never does"),
    "use_crop": Key(flag, False, "crop images (at random in training, the centre in validation), not resize them"),
    "data_len": Key(either(exactly(-1), count), -1, "use the first so many images; -1: all"),
}

_TRAINING_IMAGES = _IMAGES | {
    "batch_size": Key(count, REQUIRED, "images of a step, in each process"),
    "augment": Key(flag, True, "flip images at random"),
    "weights": Key(mapping(number("[0, inf)")), {}, "how often to draw images, by patterns (fnmatch) of names; else 1"),
}

_VALIDATION_IMAGES = _IMAGES | {
    "augment": Key(flag, False, "", "validation images are never flipped"),
    "use_shuffle": Key(flag, False, "", "validation keeps the order of the names"),
}

_BETA_SCHEDULE = {
    "schedule": Key(beta_shape, "linear", "shape of β over the timesteps"),
    "n_timestep": Key(count, 2000, "timesteps T of the diffusion"),
    "linear_start": Key(number("(0, 1)"), 1e-6, "β of the first timestep; jsd and cosine do not use it"),
    "linear_end": Key(number("(0, 1)"), 1e-2, "β of the last timestep; jsd and cosine do not use it"),
}

SCHEMA = {
    "name": Key(folder_name, REQUIRED, "the experiment: all that it writes goes to this folder of path.root"),
    "phase": Key(choice("train", "val"), "train", "train, or validate only"),
    "gpu_ids": Key(anything, None, "", "torchrun and CUDA_VISIBLE_DEVICES choose the GPUs"),
    "path": {
        "root": Key(text, "experiments", "where experiments are kept; the other paths are inside root/name"),
        "log": Key(text, "logs", "logs as text"),
        "tb_logger": Key(text, "tb_logger", "TensorBoard's logs"),
        "results": Key(text, "results", "metrics and pictures of a validation"),
        "results_hr": Key(text, "results/hr", "its HR images"),
        "results_sr": Key(text, "results/sr", "its super-resolved images"),
        "results_lr": Key(text, "results/lr", "its LR images"),
        "process": Key(text, "results/process", "its grids of intermediate states"),
        "checkpoint": Key(text, "checkpoint", "checkpoints"),
        "resume_state": Key(text_or_null, None, "checkpoint to continue from or to validate, as --resume"),
    },
    "datasets": {
        "train": _TRAINING_IMAGES,
        "val": _VALIDATION_IMAGES,
    },
    "model": {
        "which_model_G": Key(text, "sr3", "", "there is one network, the published one"),
        "pretrained_encoder": Key(anything, False, "", "the LR encoder is trained with the rest of the network"),
        "finetune_norm": Key(anything, False, "", "all parameters are trained"),
        "unet": {
            "in_channel": Key(exactly(6), 6, "LR feature and noisy image, three channels each"),
            "out_channel": Key(exactly(3), 3, "the prediction"),
            "inner_channel": Key(count, REQUIRED, "channels C of the finest level; even, for the noise embedding"),
            "norm_groups": Key(count, 32, "groups of every GroupNorm"),
            "channel_multiplier": Key(list_of(count, least=1), REQUIRED, "channels of each level, in units of C"),
            "attn_res": Key(list_of(count), REQUIRED, "levels that attend, by nominal size: image_size / 2^level"),
            "res_blocks": Key(count, REQUIRED, "residual blocks of an encoder level; a decoder level has one more"),
            "dropout": Key(number("[0, 1)"), 0.0, "share of activations dropped in residual blocks"),
        },
        "lr_encoder": {
            "n_resblocks": Key(count_or_zero, 16, "residual blocks that turn the LR image into the LR feature"),
            "n_feats": Key(count, 64, "their channels"),
        },
        "beta_schedule": {
            "train": _BETA_SCHEDULE,
            "val": _BETA_SCHEDULE,
        },
        "diffusion": {
            "image_size": Key(count, REQUIRED, "nominal side of an HR image: places attention, does not limit sizes"),
            "channels": Key(exactly(3), 3, "images are RGB"),
            "conditional": Key(true, True, "super-resolution is conditioned on the LR image"),
            "prediction": Key(choice("epsilon", "v"), "epsilon", "the network predicts ε, or v = γ·ε - sqrt(1-γ²)·y_0"),
        },
    },
    "train": {
        "n_iter": Key(count, REQUIRED, "training steps"),
        "stop_at": Key(optional(count), None, "end a stage after this step, to continue another time; null: none"),
        "val_freq": Key(count, 3000, "steps between validations"),
        "save_checkpoint_freq": Key(count, 3000, "steps between checkpoints"),
        "print_freq": Key(count, 200, "steps between lines of the log"),
        "loss": Key(choice("l1", "l2"), "l1", "absolute or squared error of the prediction"),
        "continuous_scale": Key(flag, True, "draw a target size between LR and HR for every batch"),
        "scale_step": Key(count, 8, "drawn sizes are multiples of this many pixels; 1: any size, as published"),
        "accumulate": Key(count, 1, "batches of which a step adds up the gradients"),
        "cuda_graphs": Key(flag, True, "on a GPU, record the passes of each size once and replay them"),
        "warmup": Key(count_or_zero, 0, "steps over which the learning rate rises from 0"),
        "lr_schedule": Key(choice("constant", "cosine"), "constant", "learning rate after the warm-up"),
        "grad_clip": Key(optional(number("(0, inf)")), None, "largest norm of the gradient; null: any"),
        "precision": Key(precision, "auto", "bf16 for mixed precision; auto: where the device has it"),
        "seed": Key(seed, 0, "of the initial weights, the order of the images and all noise"),
        "optimizer": {
            "type": Key(choice("adam", "adamw", "sgd"), "adam", "the optimiser"),
            "lr": Key(number("(0, inf)"), REQUIRED, "learning rate"),
            "betas": Key(list_of(number("[0, 1)"), 2, 2), [0.9, 0.999], "decay of Adam's two moments"),
            "weight_decay": Key(number("[0, inf)"), 0.0, "weight decay"),
            "momentum": Key(number("[0, 1)"), 0.9, "momentum of sgd"),
        },
        "ema_scheduler": {
            "step_start_ema": Key(count_or_zero, 5000, "until this step the average is a copy of the weights"),
            "update_ema_every": Key(count, 1, "steps between updates of the average"),
            "ema_decay": Key(number("[0, 1)"), 0.9999, "share of the average that an update keeps"),
        },
    },
    "sparse": {
        "enabled": Key(flag, Derived("true with this section"), "train with sparse momentum; false: dense"),
        "density": Key(number("(0, 1]"), 0.15, "active share of the prunable weights"),
        "init": Key(initial_densities, "constant", "how the density is shared out over the layers at first"),
        "prune": Key(prune_rule, "magnitude", "which weights an update removes"),
        "growth": Key(growth_rule, "momentum", "which weights it regrows"),
        "redistribution": Key(importance, "momentum", "what makes a layer important, so that it regrows more"),
        "prune_rate": Key(number("[0, 1)"), 0.5, "share of the active weights that the first update removes; 0: none"),
        "prune_rate_schedule": Key(prune_rate_schedule, "cosine", "how that share falls from update to update"),
        "update_every": Key(count, 1000, "steps between updates"),
        "update_until": Key(number("(0, 1]"), 0.75, "updates stop after this share of the sparse stage"),
        "exclude": Key(list_of(text), [], "patterns (fnmatch) of the names of weights that stay dense"),
        "min_elements": Key(count_or_zero, 0, "weight tensors smaller than this stay dense"),
    },
    "sample": {
        "solver": Key(choice("ddpm", "ddim", "dpm++"), "ddpm", "ancestral sampling, DDIM, or DPM-Solver++(2M)"),
        "steps": Key(optional(count), None, "denoising steps; null: every timestep"),
        "key_steps": Key(key_steps, "uniform:10", "steps that run the encoder: none (all), uniform:K, auto:N, a set"),
        "eta": Key(number("[0, 1]"), 0.0, "noise of DDIM: 0 none, 1 as ddpm"),
        "consistency": Key(count_or_zero, 0, "rounds of back-projection of each predicted image onto the LR image"),
        "start": Key(optional(number("(0, 1)")), None, "noise level γ of the LR image to begin at; null: noise alone"),
        "prior_noise": Key(number("[0, 1)"), 0.0, "weight of the initial noise that late key steps add"),
        "decode": Key(choice(*DECODES), "every", "steps of a group that run the decoder: every, both ends, the first"),
        "decode_batch": Key(optional(count), None, "most decoder calls in one batch; null: a whole group"),
        "seed": Key(seed, 0, "of the noise; each image has its own"),
        "precision": Key(sampling_precision, "auto", "bf16, fp16: mixed precision; auto: fp16 where a GPU has bf16"),
        "compile": Key(flag, True, "capture CUDA graphs, once for each image size; no effect on a CPU"),
    },
    "wandb": {
        "project": Key(text_or_null, None, "project in Weights & Biases, which the flag -enable_wandb turns on"),
    },
}

# What the table printed for users says of whole sections.
SECTION_NOTES = {
    "datasets.val": "and any further section whose name begins with val, each validated in turn",
    "model.beta_schedule.val": "absent: as for training",
    "sparse": "absent: dense training; this stage is from step 0, or that of the dense checkpoint continued, to n_iter",
}


def is_set_name(name):
    """Is this a key that `datasets` may have?"""
    return name == "train" or (isinstance(name, str) and name.startswith("val"))


def schema_for(sets):
    """SCHEMA, with these sets of images under `datasets`."""
    kinds = {name: _TRAINING_IMAGES if name == "train" else _VALIDATION_IMAGES for name in sets if is_set_name(name)}
    return SCHEMA | {"datasets": kinds}


def walk(section, prefix=""):
    """(path, Key or dict) of everything in a section, sections before what is in them."""
    for name, entry in section.items():
        path = prefix + name
        yield path, entry
        if isinstance(entry, dict):
            yield from walk(entry, path + ".")
