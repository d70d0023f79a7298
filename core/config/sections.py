"""Every section and key of a config: its type, its default, what it means. `python -m core.config` prints this.

A section is a class, and a field of the section that contains it. A key is a field with its type, its default and its
meaning. docs/configuration.md is made from this file: `python -m core.config --markdown`. Nothing here imports torch,
so that a command line can show its options at once. A test compares the names of rules with those that exist.
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
    root: str = key(text, "experiments", "folder of all experiments; the other paths are inside root/name")
    log: str = key(inner_path, "logs", "text logs")
    tb_logger: str = key(inner_path, "tb_logger", "TensorBoard logs")
    results: str = key(inner_path, "results", "metrics and pictures of validations")
    results_hr: str = key(inner_path, "results/hr", "HR images of validations")
    results_sr: str = key(inner_path, "results/sr", "super-resolved images of validations")
    results_lr: str = key(inner_path, "results/lr", "LR images of validations")
    process: str = key(inner_path, "results/process", "grids of intermediate states of validations")
    checkpoint: str = key(inner_path, "checkpoint", "checkpoints")
    resume_state: str | None = key(text_or_null, None, "checkpoint to continue from or to validate, like --resume")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DegradationSection(Section):
    """The options of `data.degradation.Degradation`, which has the same defaults."""

    blur_prob: float = key(number("[0, 1]"), 0.0, "probability that the HR image is blurred")
    kernel_prob: Sequence[float] = key(
        list_of(number("[0, inf)"), 2, 2), [0.65, 0.35], "weights of isotropic and anisotropic Gaussian kernels"
    )
    blur_kernel_size: int = key(whole("[3, 99]"), 21, "side of the blur kernel in pixels; an odd number")
    blur_sigma: Sequence[float] = key(
        limits(number("(0, inf)")), [0.2, 3.0], "range of the blur σ, in pixels of the HR image"
    )
    resize_prob: Sequence[float] = key(
        list_of(number("[0, inf)"), 3, 3), [0.0, 0.0, 1.0], "weights of a first resize: up, down, none"
    )
    resize_range: Sequence[float] = key(
        limits(number("(0, 4]")), [0.15, 1.5], "range of the factor of the first resize"
    )
    resize_modes: Sequence[str] = key(
        list_of(choice("area", "bilinear", "bicubic"), least=1),
        ["bicubic"],
        "each resize uses one of these, drawn at random; all are antialiased",
    )
    noise_prob: float = key(number("[0, 1]"), 0.0, "probability that noise is added, after the first resize")
    gaussian_noise_prob: float = key(
        number("[0, 1]"), 0.5, "probability that the noise is Gaussian; otherwise it is Poisson noise"
    )
    noise_range: Sequence[float] = key(
        limits(number("[0, inf)")), [1.0, 30.0], "range of the σ of Gaussian noise, in levels of 255"
    )
    poisson_scale_range: Sequence[float] = key(
        limits(number("[0, inf)")),
        [0.05, 3.0],
        "range of the strength s of Poisson noise; its σ at level v of 255 is s·sqrt(v)",
    )
    gray_noise_prob: float = key(number("[0, 1]"), 0.4, "probability that the noise is the same in all channels")
    jpeg_prob: float = key(number("[0, 1]"), 0.0, "probability that the image is saved as JPEG")
    jpeg_range: Sequence[int] = key(limits(whole("[1, 100]")), [30, 95], "range of the JPEG quality")
    jpeg_last_prob: float = key(
        number("[0, 1]"), 1.0, "probability that the JPEG step comes after the resize to LR; otherwise it comes before"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class JitterSection(Section):
    """The options of `data.augmentation.Jitter`, which has the same defaults."""

    shift: float = key(number("[0, 1]"), 0.0, "largest shift, as a fraction of the side")
    scale: Sequence[float] = key(limits(number("[0.1, 10]")), [1.0, 1.0], "range of the zoom factor")
    rotate: float = key(number("[0, 180]"), 0.0, "largest rotation in degrees, in either direction")
    tone: float = key(
        number("[0, 1)"), 0.0, "largest change of gamma, as a fraction; each colour changes by up to half of it"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImagesSection(Section):
    """A set of images."""

    name: str = key(text, Derived("its section"), "name of this set in logs and reports")
    mode: str = key(
        choice("LRHR", "HR"), "LRHR", "LRHR: read LR and HR images; HR: read HR images only and make LR from them"
    )
    dataroot: str | None = key(
        text_or_null, None, "output of prepare_data.py (lr_L/ and hr_R/, or an LMDB), or a folder of HR images"
    )
    hr_dataroot: str | None = key(text_or_null, None, "folder of HR images, used instead of dataroot")
    lr_dataroot: str | None = key(text_or_null, None, "folder of the matching LR images; null: LR is made from HR")
    datatype: str = key(choice("img", "lmdb"), "img", "img: folders of images; lmdb: an LMDB")
    l_resolution: int = key(count, REQUIRED, "side of an LR image, or of a crop of one, in pixels")
    r_resolution: int = key(count, REQUIRED, "side of an HR image, or of a crop of one, in pixels")
    sample_q: Any = key(anything, None, "", "the published code does not use it either")
    batch_size: int = key(count, 1, "images in a batch, per process")
    num_workers: int = key(count_or_zero, 4, "processes that read images; 0: the main process reads them")
    augment: bool = key(flag, False, "flip images at random")
    use_shuffle: bool = key(flag, True, "", "training always shuffles")
    use_crop: bool = key(
        flag, False, "crop images instead of resizing them: at random in training, the centre in validation"
    )
    data_len: int = key(either(exactly(-1), count), -1, "use only the first N images; -1: all")
    degradation: DegradationSection = section(
        "How LR images are made from HR images, as in Real-ESRGAN. Without this section: bicubic resizing only.",
        optional=True,
    )

    @property
    def magnification(self) -> float:
        """How many times larger an HR image is than its LR image."""
        return self.r_resolution / self.l_resolution


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainingImagesSection(ImagesSection):
    batch_size: int = key(count, REQUIRED, "images in a training step, per process")
    augment: bool = key(flag, True, "flip images at random")
    rotate: bool = key(flag, False, "turn images by multiples of 90° at random")
    shrink: Sequence[float] = key(
        limits(number("(0, 1]")), [1.0, 1.0], "range of the factor by which images get smaller before they are cropped"
    )
    weights: Mapping[str, float] = key(
        mapping(number("[0, inf)")),
        {},
        "how often to draw an image, by patterns (fnmatch) of file names; others have weight 1",
    )
    cache_mb: int = key(count_or_zero, 0, "megabytes of memory for decoded images, per process; 0: no cache")
    sizes: Sequence[Sequence[float]] = key(
        list_of(tuple_of(count, count, number("(0, inf)"))),
        [],
        "list of [LR side, HR side, weight]; each batch draws one of them; []: l_resolution and r_resolution",
    )
    share: float = key(number("(0, inf)"), 1.0, "how many batches come from this set, relative to the other sets")
    pixel_weight: float = key(
        number("[0, inf)"), 1.0, "weight of the distance of pixels, in a distillation, in the batches of this set"
    )
    jitter: JitterSection = section(
        "Random shift, zoom and rotation of whole images, such as faces, with reflected borders; and random tone.",
        optional=True,
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ValidationImagesSection(ImagesSection):
    num_workers: int = key(count_or_zero, 4, "", "the process that validates reads its images")
    augment: bool = key(flag, False, "", "validation images are never flipped")
    use_shuffle: bool = key(flag, False, "", "validation keeps the order of the names")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DatasetsSection(Section):
    """The images to train on: `train`, and further sets whose names begin with train_. The images to validate on: any
    number of sets whose names begin with val."""

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
        further = (
            "Images to train on. Further sections whose names begin with `train_` add sets; a batch is of one set."
        )
        note = "Images to validate on. Further sections whose names begin with `val` add sets, validated in turn."
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
    out_channel: int = key(exactly(3), 3, "channels of the prediction")
    inner_channel: int = key(whole("[1, 65536]"), REQUIRED, "channels C of the finest level; an even number")
    norm_groups: int = key(
        count_or_zero, 32, "groups of each GroupNorm; 0: no norms, so that tiles take no longer than the whole image"
    )
    channel_multiplier: Sequence[int] = key(
        list_of(count, least=1, most=16), REQUIRED, "channels of each level, in units of C"
    )
    attn_res: Sequence[int] = key(
        list_of(count), REQUIRED, "levels with attention, given as their nominal size: image_size / 2^level"
    )
    res_blocks: int = key(count, REQUIRED, "residual blocks per encoder level; a decoder level has one more")
    dropout: float = key(number("[0, 1)"), 0.0, "dropout rate in residual blocks")
    mid_attention: bool = key(
        flag, True, "attention in the bottleneck; false together with attn_res []: no attention at all"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LREncoderSection(Section):
    n_resblocks: int = key(count_or_zero, 16, "residual blocks of the LR encoder")
    n_feats: int = key(count, 64, "channels of the LR encoder")
    sub_pixel: int = key(
        whole("[1, 16]"),
        1,
        "values that an LR pixel gives to the target, per axis; 1, as published: the features are copied",
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BetaScheduleSection(Section):
    """A noise schedule."""

    schedule: str = key(
        choice("linear", "quad", "warmup10", "warmup50", "const", "jsd", "cosine"),
        "linear",
        "shape of β over the timesteps",
    )
    n_timestep: int = key(whole("[1, 100000]"), 2000, "number of diffusion timesteps T")
    linear_start: float = key(number("(0, 1)"), 1e-6, "β of the first timestep; not used by jsd and cosine")
    linear_end: float = key(number("(0, 1)"), 1e-2, "β of the last timestep; not used by jsd and cosine")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BetaSchedulesSection(Section):
    train: BetaScheduleSection = section()
    val: BetaScheduleSection = section("Without this section: the same as for training.")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DiffusionSection(Section):
    image_size: int = key(
        count, REQUIRED, "nominal side of an HR image; it decides which levels have attention, and does not limit sizes"
    )
    channels: int = key(exactly(3), 3, "images are RGB")
    conditional: bool = key(true, True, "condition the network on the LR image; always true for super-resolution")
    prediction: str = key(choice("epsilon", "v"), "epsilon", "the network predicts ε, or v = γ·ε - sqrt(1-γ²)·y_0")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ModelSection(Section):
    which_model_G: str = key(text, "sr3", "", "there is only one network, the published one")
    pretrained_encoder: Any = key(anything, False, "", "the LR encoder is always trained with the rest of the network")
    finetune_norm: Any = key(anything, False, "", "all parameters are always trained")
    unet: UNetSection = section()
    lr_encoder: LREncoderSection = section("The part that sees the LR image.")
    beta_schedule: BetaSchedulesSection = section()
    diffusion: DiffusionSection = section()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OptimizerSection(Section):
    type: str = key(choice("adam", "adamw", "sgd"), "adam", "optimiser")
    lr: float = key(number("(0, inf)"), REQUIRED, "learning rate")
    betas: Sequence[float] = key(list_of(number("[0, 1)"), 2, 2), [0.9, 0.999], "decay rates of Adam's two moments")
    weight_decay: float = key(number("[0, inf)"), 0.0, "weight decay")
    momentum: float = key(number("[0, 1)"), 0.9, "momentum of sgd")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EMASection(Section):
    """The average of the weights."""

    step_start_ema: int = key(count_or_zero, 5000, "up to this step, the average is a copy of the weights")
    update_ema_every: int = key(count, 1, "steps between updates of the average")
    ema_decay: float = key(number("[0, 1)"), 0.9999, "fraction of the average that each update keeps")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TrainSection(Section):
    n_iter: int = key(count, REQUIRED, "training steps")
    stop_at: int | None = key(
        optional(count), None, "stop after this step, to continue later with other settings; null: run to n_iter"
    )
    val_freq: int = key(count, 3000, "steps between validations")
    save_checkpoint_freq: int = key(count, 3000, "steps between checkpoints")
    keep_checkpoints: int | None = key(
        optional(count),
        3,
        "newest checkpoints to keep, besides the one with the best PSNR and the one continued from; null: all",
    )
    print_freq: int = key(count, 200, "steps between log lines")
    loss: str = key(
        choice("l1", "l2"), "l1", "l1: absolute error of the prediction; l2: squared error (not for distill)"
    )
    continuous_scale: bool = key(flag, True, "draw a random target size between LR and HR for each batch")
    scale_step: int = key(count, 8, "random sizes are multiples of this number of pixels; 1: any size, as published")
    accumulate: int = key(count, 1, "number of batches whose gradients are added up in one step")
    cuda_graphs: bool = key(
        flag, True, "use CUDA graphs: on a GPU, record the passes of each image size once, then replay them"
    )
    warmup: int = key(count_or_zero, 0, "steps over which the learning rate rises from 0")
    lr_schedule: str = key(choice("constant", "cosine"), "constant", "learning rate schedule after the warm-up")
    grad_clip: float | None = key(
        optional(number("(0, inf)")), None, "clip the gradient to this norm; null: no clipping"
    )
    max_skipped: int = key(
        count, 10, "a step with a non-finite loss or gradient is skipped; this many in a row end the training"
    )
    precision: str = key(
        choice("auto", "float32", "bf16"),
        "auto",
        "bf16: mixed precision; auto: bf16 on GPUs that support it, float32 elsewhere",
    )
    seed: int = key(seed, 0, "random seed of the initial weights, the image order and all noise")
    optimizer: OptimizerSection = section()
    ema_scheduler: EMASection = section("The moving average of the weights, which is validated and shipped.")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SparseSection(Section):
    enabled: bool = key(flag, Derived("true if this section exists"), "true: train with sparse momentum; false: dense")
    density: float = key(number("(0, 1]"), 0.15, "fraction of the prunable weights that are active")
    init: str = key(
        choice("constant", "erdos_renyi", "erdos_renyi_kernel"),
        "constant",
        "how the active weights are spread over the layers at the start",
    )
    prune: str = key(
        choice("magnitude", "magnitude_variance", "SET", "global_magnitude"),
        "magnitude",
        "which weights an update prunes",
    )
    growth: str = key(
        choice("momentum", "gradient", "random", "momentum_neuron", "global_momentum"),
        "momentum",
        "which weights an update regrows",
    )
    redistribution: str = key(
        choice("momentum", "magnitude", "nonzero", "variance", "none", nonzeros="nonzero"),
        "momentum",
        "what decides how many weights each layer regrows",
    )
    prune_rate: float = key(
        number("[0, 1)"), 0.5, "fraction of the active weights that the first update prunes; 0: masks never change"
    )
    prune_rate_schedule: str = key(
        choice("cosine", "linear", "constant"), "cosine", "how the prune rate falls over the updates"
    )
    update_every: int = key(count, 1000, "steps between mask updates")
    update_until: float = key(number("(0, 1]"), 0.75, "mask updates stop after this fraction of the sparse stage")
    exclude: Sequence[str] = key(list_of(text), [], "patterns (fnmatch) of parameter names that stay dense")
    min_elements: int = key(count_or_zero, 0, "weight tensors with fewer elements than this stay dense")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SampleSection(Section):
    """How to sample. Each key is also a flag of infer.py. What `core.sampling.super_resolution` does not use itself
    goes to `model.sampler.sample` under the same name."""

    solver: str = key(choice("ddpm", "ddim", "dpm++"), "ddpm", "ancestral sampling, DDIM, or DPM-Solver++(2M)")
    steps: int | None = key(optional(count), None, "number of denoising steps; null: all timesteps")
    key_steps: str | Sequence[int] = key(
        either(text, list_of(count_or_zero)),
        "uniform:10",
        "steps that run the encoder: none (every step), uniform:K (every K-th), auto:N (N calibrated steps), "
        "a named set, or a list such as 0,5,10",
    )
    eta: float = key(number("[0, 1]"), 0.0, "noise that DDIM adds: 0 none, 1 as much as ddpm")
    consistency: int = key(count_or_zero, 0, "how many times each predicted image is projected back onto the LR image")
    start: float | None = key(
        optional(number("(0, 1)")),
        None,
        "begin at this noise level γ, from the enlarged LR image; null: begin from pure noise",
    )
    prior_noise: float = key(
        number("[0, 1)"), 0.0, "weight of the initial noise that key steps in the later half of the chain add"
    )
    decode: str = key(
        choice("every", "ends", "first"),
        "every",
        "which steps of a group run the decoder: every step, both ends, or only the first",
    )
    decode_batch: int | None = key(
        optional(count), None, "largest number of decoder calls in one batch; null: a whole group"
    )
    mirrored: bool = key(
        flag,
        False,
        "mean of two results, of the image and of its mirror image: twice the work, nearer to the truth, a bit softer",
    )
    trained_sizes: bool = key(
        flag,
        True,
        "make images at the sizes or magnifications that the network makes best, as its training tells, and reduce "
        "them; no effect after training with continuous_scale",
    )
    tile: str | int = key(
        either(choice("auto"), count_or_zero),
        "auto",
        "side of a tile in pixels of the image as it is made; 0: no tiles; auto: tiles only if the image is too large",
    )
    overlap: int | None = key(
        optional(count_or_zero), None, "pixels that a tile sees of its neighbours; null: as many as needed"
    )
    seed: int = key(seed, 0, "random seed of the noise; validation adds the index of the image")
    precision: str = key(
        choice("auto", "float32", "bf16", "fp16"),
        "auto",
        "bf16, fp16: mixed precision (bf16 is fast on CPUs with AMX); auto: fp16 on GPUs that support bf16, float32 "
        "elsewhere",
    )
    compile: bool = key(flag, True, "use CUDA graphs, captured once for each image size; no effect on a CPU")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CardSection(Section):
    """What a network is for. It is part of its checkpoints, and `infer.py --about` shows it."""

    purpose: str | None = key(optional(line), None, "what the network is for; null: no card")
    inputs: Sequence[int] | None = key(
        optional(limits(count)), None, "suitable inputs: range of the longer side in pixels; null: any"
    )
    magnifications: Sequence[float] | None = key(
        optional(limits(number("[1, inf)"))), None, "suitable magnifications: a range; null: any"
    )
    data: str | None = key(optional(line), None, "what it was trained on")
    licence: str | None = key(optional(line), None, "what the licences of that data allow")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DistillSection(Section):
    """How a student learns from its teacher to sample in a few calls."""

    teacher: str | None = key(
        text_or_null,
        None,
        "checkpoint of the teacher, whose encoder compares images; null: the checkpoint that -r names, or the teacher "
        "which that notes, if it is a student's",
    )
    fresh_student: bool = key(
        flag, False, "the student begins with first weights, not with its teacher's: it may be another network"
    )
    feature_weight: float = key(number("[0, inf)"), 1.0, "weight of the distance between the teacher's features")
    level_weights: Sequence[float] = key(
        list_of(number("[0, inf)")),
        [],
        "weights of the teacher's levels in that distance, the finest first and the bottleneck last; []: all alike",
    )
    texture_weight: float = key(
        number("[0, inf)"),
        0.0,
        "weight of the distance between local amounts of detail in the teacher's finest features",
    )
    perceptual_network: str | None = key(
        text_or_null,
        None,
        "file that python -m core.perceptual_network wrote: its network compares result and truth; null: none does",
    )
    perceptual_weight: float = key(
        number("[0, inf)"), 1.0, "weight of the distance between the perceptual network's features"
    )
    perceptual_heads: bool = key(
        flag, True, "give the discriminator heads on the perceptual network's features too, if there is one"
    )
    adversarial_weight: float = key(number("[0, inf)"), 0.1, "weight of the adversarial loss")
    mirror_weight: float = key(
        number("[0, inf)"), 0.0, "weight of the distance between the results of an image and of its mirror image"
    )
    pattern_weight: float = key(
        number("[0, inf)"), 0.0, "weight of the fixed pattern: what errors have in common from LR pixel to LR pixel"
    )
    teacher_noise: Sequence[float] = key(
        limits(number("(0, 1)")),
        [0.02, 0.47],
        "range of the noise σ that is added to the images before the teacher sees them",
    )
    teacher_noise_power: float = key(
        number("(0, inf)"), 2.0, "exponent of the draw: σ = low + (high - low)·u^power, with u uniform in (0, 1)"
    )
    head_channels: int = key(whole("[1, 4096]"), 64, "channels inside the discriminator's heads")
    head_lr: float = key(number("(0, inf)"), 2e-4, "learning rate of the discriminator")
    heads_first: int = key(count_or_zero, 0, "steps at the start in which only the discriminator learns")
    pixel_head: bool = key(
        flag, False, "give the discriminator one more head, which sees pixels and their local contrast"
    )
    shift: int = key(
        count_or_zero,
        8,
        "largest random shift, in pixels, before networks that judge an image see it",
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MetricsSection(Section):
    """Weights of the networks behind LPIPS, FID and KID; null: those in torch.hub's cache, if there are any."""

    lpips_weights: str | None = key(
        text_or_null, None, "file with AlexNet's weights for LPIPS, as torchvision saves them"
    )
    fid_weights: str | None = key(
        text_or_null, None, "file with Inception's weights for FID and KID, as torch-fidelity saves them"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WandbSection(Section):
    project: str | None = key(
        text_or_null, None, "project in Weights & Biases; the flag -enable_wandb turns logging on"
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Config(Section):
    """A whole config, checked and complete."""

    name: str = key(folder_name, REQUIRED, "name of the experiment; all its files go to this folder inside path.root")
    phase: str = key(choice("train", "val", "distill"), "train", "train, only validate, or distil")
    gpu_ids: Any = key(anything, None, "", "torchrun and CUDA_VISIBLE_DEVICES choose the GPUs")
    path: PathSection = section("Where files go.")
    datasets: DatasetsSection = section()
    model: ModelSection = section("The network and its noise schedule.")
    train: TrainSection = section("How to train. Not needed for sampling and validation.", optional=True)
    sparse: SparseSection = section(
        "Without this section: dense training. The sparse stage begins at step 0, or at the step of the dense "
        "checkpoint that is continued, and ends at n_iter."
    )
    sample: SampleSection = section("How to sample. Each key is also a flag of infer.py, such as `--key-steps`.")
    card: CardSection = section("What the network is for. The card goes into its checkpoints.")
    distill: DistillSection = section(
        "Only for the phase `distill`. The section `sample` says how the student samples.", optional=True
    )
    metrics: MetricsSection = section("Weights of the networks behind LPIPS, FID and KID.")
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
