"""Every section and key of a config: its type, its default, what it means. `python -m core.config` prints this.

A section is a class, and a field of the section that it stands in; a key is a field with its type, its default and its
meaning. Nothing here imports torch, so that a command line can tell its options at once: names of rules are compared
with those that there are by a test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.config.keys import REQUIRED, Derived, Entry, Section, Subsection, key, section
from core.config.value_types import (
    anything,
    choice,
    count,
    count_or_zero,
    either,
    exactly,
    flag,
    folder_name,
    inner_path,
    is_folder_name,
    limits,
    line,
    list_of,
    mapping,
    number,
    optional,
    seed,
    text,
    text_or_null,
    true,
    tuple_of,
    whole,
)
from core.errors import UserError


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PathSection(Section):
    root: str = key(text, "experiments", "where experiments are kept; the other paths are inside root/name")
    log: str = key(inner_path, "logs", "logs as text")
    tb_logger: str = key(inner_path, "tb_logger", "TensorBoard's logs")
    results: str = key(inner_path, "results", "metrics and pictures of a validation")
    results_hr: str = key(inner_path, "results/hr", "its HR images")
    results_sr: str = key(inner_path, "results/sr", "its super-resolved images")
    results_lr: str = key(inner_path, "results/lr", "its LR images")
    process: str = key(inner_path, "results/process", "its grids of intermediate states")
    checkpoint: str = key(inner_path, "checkpoint", "checkpoints")
    resume_state: str | None = key(text_or_null, None, "checkpoint to continue from or to validate, as --resume")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DegradationSection(Section):
    """The options of `data.degradation.Degradation`, which has the same defaults."""

    blur_prob: float = key(number("[0, 1]"), 0.0, "how often HR is blurred")
    kernel_prob: Sequence[float] = key(
        list_of(number("[0, inf)"), 2, 2), [0.65, 0.35], "weights of isotropic and anisotropic Gaussian kernels"
    )
    blur_kernel_size: int = key(whole("[3, 99]"), 21, "side of a kernel, odd")
    blur_sigma: Sequence[float] = key(limits(number("(0, inf)")), [0.2, 3.0], "range of its σ, in pixels of HR")
    resize_prob: Sequence[float] = key(
        list_of(number("[0, inf)"), 3, 3), [0.0, 0.0, 1.0], "weights of a first resize up, down, and none"
    )
    resize_range: Sequence[float] = key(
        limits(number("(0, 4]")), [0.15, 1.5], "its factors, on HR: the smallest down, the largest up"
    )
    resize_modes: Sequence[str] = key(
        list_of(choice("area", "bilinear", "bicubic"), least=1),
        ["bicubic"],
        "what each resize draws from, that to LR too; all antialiased",
    )
    noise_prob: float = key(number("[0, 1]"), 0.0, "how often noise is added, at the size of the first resize")
    gaussian_noise_prob: float = key(number("[0, 1]"), 0.5, "how much of the noise is Gaussian; the rest: Poisson")
    noise_range: Sequence[float] = key(
        limits(number("[0, inf)")), [1.0, 30.0], "range of the σ of Gaussian noise, in levels of 255"
    )
    poisson_scale_range: Sequence[float] = key(
        limits(number("[0, inf)")), [0.05, 3.0], "range of s of Poisson noise, whose σ at level v of 255 is s·sqrt(v)"
    )
    gray_noise_prob: float = key(number("[0, 1]"), 0.4, "how much of the noise is the same in all channels")
    jpeg_prob: float = key(number("[0, 1]"), 0.0, "how often the image is saved as JPEG")
    jpeg_range: Sequence[int] = key(limits(whole("[1, 100]")), [30, 95], "range of its quality")
    jpeg_last_prob: float = key(
        number("[0, 1]"), 1.0, "how often that is LR; else it is the image before the resize to LR"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class JitterSection(Section):
    """The options of `data.augmentation.Jitter`, which has the same defaults."""

    shift: float = key(number("[0, 1]"), 0.0, "most that an image is moved, as a share of its side")
    scale: Sequence[float] = key(limits(number("[0.1, 10]")), [1.0, 1.0], "range of its magnification")
    rotate: float = key(number("[0, 180]"), 0.0, "most degrees that it is turned, either way")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImagesSection(Section):
    """A set of images."""

    name: str = key(text, Derived("its section"), "what logs and reports call these images")
    mode: str = key(choice("LRHR", "HR"), "LRHR", "LRHR reads LR and HR images; HR reads HR alone and makes LR of it")
    dataroot: str | None = key(
        text_or_null, None, "what prepare_data.py wrote (lr_L/ and hr_R/, or an LMDB), or HR images"
    )
    hr_dataroot: str | None = key(text_or_null, None, "a folder of HR images, in place of dataroot")
    lr_dataroot: str | None = key(text_or_null, None, "a folder of their LR images; without it, LR is made of HR")
    datatype: str = key(choice("img", "lmdb"), "img", "folders of images, or an LMDB")
    l_resolution: int = key(count, REQUIRED, "side of an LR image, or of a crop of one, in pixels")
    r_resolution: int = key(count, REQUIRED, "side of an HR image, or of a crop of one, in pixels")
    sample_q: Any = key(anything, None, "", "the published code does not use it either")
    batch_size: int = key(count, 1, "images of a batch, in each process")
    num_workers: int = key(count_or_zero, 4, "processes that read images; 0: the main process reads")
    augment: bool = key(flag, False, "flip images at random")
    use_shuffle: bool = key(flag, False, "accepted; training always shuffles, validation never does")
    use_crop: bool = key(flag, False, "crop images (at random in training, the centre in validation), not resize them")
    data_len: int = key(either(exactly(-1), count), -1, "use the first so many images; -1: all")
    degradation: DegradationSection = section(
        "of LR made of HR, as in Real-ESRGAN; absent: bicubic alone", optional=True
    )

    @property
    def magnification(self) -> float:
        """How many times larger an HR image is than its LR image."""
        return self.r_resolution / self.l_resolution


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainingImagesSection(ImagesSection):
    batch_size: int = key(count, REQUIRED, "images of a step, in each process")
    augment: bool = key(flag, True, "flip images at random")
    rotate: bool = key(flag, False, "turn images by multiples of 90° at random")
    weights: Mapping[str, float] = key(
        mapping(number("[0, inf)")), {}, "how often to draw images, by patterns (fnmatch) of names; else 1"
    )
    cache_mb: int = key(count_or_zero, 0, "memory for decoded images, in each process with its readers; 0: none")
    sizes: Sequence[Sequence[float]] = key(
        list_of(tuple_of(count, count, number("(0, inf)"))),
        [],
        "[LR side, HR side, weight] of what a batch is made, drawn by weight; []: l_resolution and r_resolution",
    )
    share: float = key(number("(0, inf)"), 1.0, "how many of the batches are of this set, compared with others'")
    jitter: JitterSection = section("of whole images, reflected at their border; absent: none", optional=True)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ValidationImagesSection(ImagesSection):
    augment: bool = key(flag, False, "", "validation images are never flipped")
    use_shuffle: bool = key(flag, False, "", "validation keeps the order of the names")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DatasetsSection(Section):
    """The images to train on, with further sets whose names begin with train_ and whose batches come among the others;
    and any number of sets to validate on, whose names begin with val."""

    train: TrainingImagesSection = section(optional=True)
    further: Mapping[str, TrainingImagesSection] = field(default_factory=dict)
    validation: Mapping[str, ValidationImagesSection] = field(default_factory=dict)

    @property
    def training(self) -> dict[str, TrainingImagesSection]:
        """All sets to train on; the first is `train`, which tells the magnification."""
        return {name: value for name, value in vars(self).items() if name == "train"} | dict(self.further)

    def values_by_name(self) -> dict[str, Any]:
        return self.training | dict(self.validation)

    @classmethod
    def entries(cls, given: Iterable[Any] | None = None) -> dict[str, Entry]:
        given = ("val",) if given is None else list(given)
        further = "and any further section whose name begins with train_, whose batches come among the others"
        note = "and any further section whose name begins with val, each validated in turn"
        return {
            "train": Subsection(TrainingImagesSection, further, optional=True),
            **{
                name: Subsection(TrainingImagesSection, optional=True)
                for name in filter(is_further_training_set, given)
            },
            **{
                name: Subsection(ValidationImagesSection, note, optional=True)
                for name in filter(is_validation_set, given)
            },
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "DatasetsSection":
        train = values.pop("train", None)
        further = {name: images for name, images in values.items() if is_further_training_set(name)}
        validation = {name: images for name, images in values.items() if name not in further}
        return cls(train=train, further=further, validation=validation)


def is_further_training_set(name: Any) -> bool:
    """Whether this can name a set of images to train on beside `train`."""
    return isinstance(name, str) and name.startswith("train_") and is_folder_name(name) and "." not in name


def is_validation_set(name: Any) -> bool:
    """Whether this can name a set of images to validate on; its results go to a folder of its name."""
    return isinstance(name, str) and name.startswith("val") and is_folder_name(name) and "." not in name


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class UNetSection(Section):
    in_channel: int = key(exactly(6), 6, "LR feature and noisy image, three channels each")
    out_channel: int = key(exactly(3), 3, "the prediction")
    inner_channel: int = key(
        whole("[1, 65536]"), REQUIRED, "channels C of the finest level; even, for the noise embedding"
    )
    norm_groups: int = key(count, 32, "groups of every GroupNorm")
    channel_multiplier: Sequence[int] = key(
        list_of(count, least=1, most=16), REQUIRED, "channels of each level, in units of C"
    )
    attn_res: Sequence[int] = key(list_of(count), REQUIRED, "levels that attend, by nominal size: image_size / 2^level")
    res_blocks: int = key(count, REQUIRED, "residual blocks of an encoder level; a decoder level has one more")
    dropout: float = key(number("[0, 1)"), 0.0, "share of activations dropped in residual blocks")
    mid_attention: bool = key(
        flag, True, "attend in the bottleneck; false, with attn_res []: a network without attention"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LREncoderSection(Section):
    n_resblocks: int = key(count_or_zero, 16, "residual blocks that turn the LR image into the LR feature")
    n_feats: int = key(count, 64, "their channels")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BetaScheduleSection(Section):
    """A noise schedule."""

    schedule: str = key(
        choice("linear", "quad", "warmup10", "warmup50", "const", "jsd", "cosine"),
        "linear",
        "shape of β over the timesteps",
    )
    n_timestep: int = key(whole("[1, 100000]"), 2000, "timesteps T of the diffusion")
    linear_start: float = key(number("(0, 1)"), 1e-6, "β of the first timestep; jsd and cosine do not use it")
    linear_end: float = key(number("(0, 1)"), 1e-2, "β of the last timestep; jsd and cosine do not use it")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BetaSchedulesSection(Section):
    train: BetaScheduleSection = section()
    val: BetaScheduleSection = section("absent: as for training")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DiffusionSection(Section):
    image_size: int = key(count, REQUIRED, "nominal side of an HR image: places attention, does not limit sizes")
    channels: int = key(exactly(3), 3, "images are RGB")
    conditional: bool = key(true, True, "super-resolution is conditioned on the LR image")
    prediction: str = key(choice("epsilon", "v"), "epsilon", "the network predicts ε, or v = γ·ε - sqrt(1-γ²)·y_0")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ModelSection(Section):
    which_model_G: str = key(text, "sr3", "", "there is one network, the published one")
    pretrained_encoder: Any = key(anything, False, "", "the LR encoder is trained with the rest of the network")
    finetune_norm: Any = key(anything, False, "", "all parameters are trained")
    unet: UNetSection = section()
    lr_encoder: LREncoderSection = section()
    beta_schedule: BetaSchedulesSection = section()
    diffusion: DiffusionSection = section()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OptimizerSection(Section):
    type: str = key(choice("adam", "adamw", "sgd"), "adam", "the optimiser")
    lr: float = key(number("(0, inf)"), REQUIRED, "learning rate")
    betas: Sequence[float] = key(list_of(number("[0, 1)"), 2, 2), [0.9, 0.999], "decay of Adam's two moments")
    weight_decay: float = key(number("[0, inf)"), 0.0, "weight decay")
    momentum: float = key(number("[0, 1)"), 0.9, "momentum of sgd")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EMASection(Section):
    """The average of the weights."""

    step_start_ema: int = key(count_or_zero, 5000, "until this step the average is a copy of the weights")
    update_ema_every: int = key(count, 1, "steps between updates of the average")
    ema_decay: float = key(number("[0, 1)"), 0.9999, "share of the average that an update keeps")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainSection(Section):
    n_iter: int = key(count, REQUIRED, "training steps")
    stop_at: int | None = key(
        optional(count), None, "end a stage after this step, to continue another time; null: none"
    )
    val_freq: int = key(count, 3000, "steps between validations")
    save_checkpoint_freq: int = key(count, 3000, "steps between checkpoints")
    keep_checkpoints: int | None = key(
        optional(count), 3, "newest checkpoints to keep, beside the one of best PSNR and that continued from; null: all"
    )
    print_freq: int = key(count, 200, "steps between lines of the log")
    loss: str = key(choice("l1", "l2"), "l1", "absolute or squared error of the prediction")
    continuous_scale: bool = key(flag, True, "draw a target size between LR and HR for every batch")
    scale_step: int = key(count, 8, "drawn sizes are multiples of this many pixels; 1: any size, as published")
    accumulate: int = key(count, 1, "batches of which a step adds up the gradients")
    cuda_graphs: bool = key(flag, True, "on a GPU, record the passes of each size once and replay them")
    warmup: int = key(count_or_zero, 0, "steps over which the learning rate rises from 0")
    lr_schedule: str = key(choice("constant", "cosine"), "constant", "learning rate after the warm-up")
    grad_clip: float | None = key(optional(number("(0, inf)")), None, "largest norm of the gradient; null: any")
    max_skipped: int = key(
        count, 10, "a step whose loss or gradient is not finite changes nothing; so many in a row end the training"
    )
    precision: str = key(
        choice("auto", "float32", "bf16"), "auto", "bf16 for mixed precision; auto: where the device has it"
    )
    seed: int = key(seed, 0, "of the initial weights, the order of the images and all noise")
    optimizer: OptimizerSection = section()
    ema_scheduler: EMASection = section()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SparseSection(Section):
    enabled: bool = key(flag, Derived("true with this section"), "train with sparse momentum; false: dense")
    density: float = key(number("(0, 1]"), 0.15, "active share of the prunable weights")
    init: str = key(
        choice("constant", "erdos_renyi", "erdos_renyi_kernel"),
        "constant",
        "how the density is shared out over the layers at first",
    )
    prune: str = key(
        choice("magnitude", "magnitude_variance", "SET", "global_magnitude"),
        "magnitude",
        "which weights an update removes",
    )
    growth: str = key(
        choice("momentum", "gradient", "random", "momentum_neuron", "global_momentum"),
        "momentum",
        "which weights it regrows",
    )
    redistribution: str = key(
        choice("momentum", "magnitude", "nonzero", "variance", "none", nonzeros="nonzero"),
        "momentum",
        "what makes a layer important, so that it regrows more",
    )
    prune_rate: float = key(number("[0, 1)"), 0.5, "share of the active weights that the first update removes; 0: none")
    prune_rate_schedule: str = key(
        choice("cosine", "linear", "constant"), "cosine", "how that share falls from update to update"
    )
    update_every: int = key(count, 1000, "steps between updates")
    update_until: float = key(number("(0, 1]"), 0.75, "updates stop after this share of the sparse stage")
    exclude: Sequence[str] = key(list_of(text), [], "patterns (fnmatch) of the names of weights that stay dense")
    min_elements: int = key(count_or_zero, 0, "weight tensors smaller than this stay dense")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleSection(Section):
    """How to sample. Each key is a flag of infer.py too, and all that `core.sampling` does not use itself goes to
    `model.sampler.sample` by its name."""

    solver: str = key(choice("ddpm", "ddim", "dpm++"), "ddpm", "ancestral sampling, DDIM, or DPM-Solver++(2M)")
    steps: int | None = key(optional(count), None, "denoising steps; null: every timestep")
    key_steps: str | Sequence[int] = key(
        either(text, list_of(count_or_zero)),
        "uniform:10",
        "steps that run the encoder: none (all do), uniform:K (each K-th), auto:N (as calibrated), a named set, 0,5,10",
    )
    eta: float = key(number("[0, 1]"), 0.0, "noise of DDIM: 0 none, 1 as ddpm")
    consistency: int = key(count_or_zero, 0, "rounds of back-projection of each predicted image onto the LR image")
    start: float | None = key(
        optional(number("(0, 1)")), None, "noise level γ of the LR image to begin at; null: noise alone"
    )
    prior_noise: float = key(number("[0, 1)"), 0.0, "weight of the initial noise that late key steps add")
    decode: str = key(
        choice("every", "ends", "first"),
        "every",
        "steps of a group that run the decoder: every, both ends, the first",
    )
    decode_batch: int | None = key(optional(count), None, "most decoder calls in one batch; null: a whole group")
    tile: str | int = key(
        either(choice("auto"), count_or_zero),
        "auto",
        "side of the tiles of a large image, in pixels of the result; 0: none; auto: where it is too large for one",
    )
    overlap: int | None = key(
        optional(count_or_zero), None, "pixels that a tile sees of its neighbours; null: as many as it takes"
    )
    seed: int = key(seed, 0, "of the noise; validation adds the index of an image")
    precision: str = key(
        choice("auto", "float32", "bf16", "fp16"),
        "auto",
        "bf16, fp16: mixed precision; auto: fp16 where a GPU has bf16",
    )
    compile: bool = key(flag, True, "capture CUDA graphs, once for each image size; no effect on a CPU")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CardSection(Section):
    """What a network is for. It goes with its checkpoints, and `infer.py --about` shows it."""

    purpose: str | None = key(optional(line), None, "what the network is for; null: there is no card")
    inputs: Sequence[int] | None = key(
        optional(limits(count)), None, "range of the longer side of images that it is for, in pixels; null: any"
    )
    magnifications: Sequence[float] | None = key(
        optional(limits(number("[1, inf)"))), None, "range of how many times larger it makes them; null: any"
    )
    data: str | None = key(optional(line), None, "what it was trained on")
    licence: str | None = key(optional(line), None, "what the licences of that data allow")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DistillSection(Section):
    """How a student of few calls learns from its teacher."""

    teacher: str | None = key(
        text_or_null, None, "checkpoint whose encoder judges; null: the one that the student starts from"
    )
    feature_weight: float = key(number("[0, inf)"), 1.0, "of the distance between the teacher's features")
    adversarial_weight: float = key(number("[0, inf)"), 0.1, "of what the discriminator says")
    teacher_noise: Sequence[float] = key(
        limits(number("(0, 1)")), [0.02, 0.47], "range of the noise σ under which the teacher looks at images"
    )
    teacher_noise_power: float = key(number("(0, inf)"), 2.0, "σ = low + (high - low)·u^power, u ~ U(0, 1)")
    head_channels: int = key(whole("[1, 4096]"), 64, "channels inside the heads of the discriminator")
    head_lr: float = key(number("(0, inf)"), 2e-4, "learning rate of the discriminator")
    pixel_head: bool = key(flag, False, "give the discriminator a head that looks at pixels too")
    shift: int = key(count_or_zero, 8, "most pixels by which the judges see an image moved")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MetricsSection(Section):
    """Weights of the networks that judge in a validation; null: those that torch.hub's cache holds, or none."""

    lpips_weights: str | None = key(text_or_null, None, "AlexNet's for LPIPS, as torchvision saves them: a file")
    fid_weights: str | None = key(
        text_or_null, None, "Inception's for FID and KID, as torch-fidelity saves them: a file"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WandbSection(Section):
    project: str | None = key(text_or_null, None, "project in Weights & Biases, which the flag -enable_wandb turns on")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Config(Section):
    """A whole config, checked and complete."""

    name: str = key(folder_name, REQUIRED, "the experiment: all that it writes goes to this folder of path.root")
    phase: str = key(choice("train", "val", "distill"), "train", "train, validate only, or distil")
    gpu_ids: Any = key(anything, None, "", "torchrun and CUDA_VISIBLE_DEVICES choose the GPUs")
    path: PathSection = section()
    datasets: DatasetsSection = section()
    model: ModelSection = section()
    train: TrainSection = section(optional=True)
    sparse: SparseSection = section(
        "absent: dense training; this stage is from step 0, or that of the dense checkpoint continued, to n_iter"
    )
    sample: SampleSection = section()
    card: CardSection = section("of the network, for those who get its checkpoint")
    distill: DistillSection = section("only for phase distill; `sample` says how the student samples", optional=True)
    metrics: MetricsSection = section()
    wandb: WandbSection = section()

    @property
    def trained_images(self) -> ImagesSection:
        """The set that tells what a network was trained on: the one to train on, or where there is none, another."""
        for images in self.datasets.values():
            return images
        raise UserError(f"{self.name}: no datasets in the config, so it does not tell the magnification")

    @property
    def magnification(self) -> float:
        """How many times larger the images are that a network was trained to make."""
        return self.trained_images.magnification
