"""Distillation: a network learns to sample in few calls, as the `sample` section of its config says."""

from collections.abc import Callable, Mapping, Sequence
from logging import Logger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.checkpoint.files import TrainingState, find_checkpoint, load_network, load_training_state, saved_config
from core.config import Config
from core.config.notices import asks_teacher
from core.config.sections import DistillSection
from core.config.wording import is_utf8
from core.errors import UserError
from core.perceptual_network.training import load_perceptual_network
from core.processes import Processes
from core.training.trainer import Drawn, Trainer
from data import DataError
from data.paths import is_file
from model.distillation.discriminator import Discriminator
from model.distillation.loss import DistillationLoss, draw_view
from model.distillation.student import StudentChain
from model.distillation.teacher import TeacherFeatures
from model.network import Network
from model.sampler import SamplingPlan
from sparse import SparseError, UpdateReport

DISCRIMINATOR = "discriminator"  # the name of the module in a training file


class DistillationTrainer(Trainer):
    """Trains a student against its teacher's encoder, under the student's masks.

    A checkpoint of a distillation, `resume`, is continued. From any other the student takes the weights and the masks,
    and begins at step 0. With `distill.fresh_student` it takes nothing: it begins with first weights and masks.
    `teacher_of` tells who its teacher is. The student's config keeps the teacher's path, so that continuing finds it.
    """

    def __init__(
        self,
        config: Config,
        processes: Processes,
        log: Logger,
        resume: str | Path | None = None,
        mirror: Any = None,
    ) -> None:
        resume = resume or config.distill.teacher
        if resume is None:
            raise UserError("a distillation begins with a trained network: name its checkpoint with -r")
        teacher = teacher_of(resume, config.distill)
        if not is_utf8(teacher):
            mend = "name a link to it"
            raise UserError(f"{teacher}: not a path in UTF-8, and the student's config notes its teacher; {mend}")
        config = config.replace(distill=config.distill.replace(teacher=teacher))
        if config.distill.fresh_student and not is_own(resume):
            resume = None
        self.teacher = TeacherFeatures(load_network(teacher, processes.device)[0])
        refuse_other_levels(config.distill.level_weights, len(self.teacher.channels) - 1)
        file = config.distill.perceptual_network
        self.perceptual = load_perceptual_network(file, processes.device) if file else None
        super().__init__(config, processes, log, resume, mirror)
        self.parts = torch.zeros_like(self.objective.parts)  # summed since the last line of the log

    def load_state(self, resume: str | Path) -> TrainingState:
        """What a distillation left behind, or a network's weights and masks at step 0."""
        state = load_training_state(resume, self.config)
        if DISCRIMINATOR in state.modules:
            return state
        return TrainingState(state.ema, state.ema, state.masks)

    def build_modules(self) -> dict[str, nn.Module]:
        options = self.config.distill
        perceptual = self.perceptual.channels if self.perceptual and options.perceptual_heads else []
        channels = [*self.teacher.channels, *perceptual]
        heads = Discriminator(channels, options.head_channels, options.pixel_head)
        self.discriminator = heads.to(self.processes.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return {DISCRIMINATOR: self.discriminator}

    def load_modules(self, saved: TrainingState) -> None:
        try:
            super().load_modules(saved)
        except UserError as error:
            mend = "export its network (python -m core.export), and begin another distillation with that, by -r"
            if self.config.distill.fresh_student:
                mend += " and distill.fresh_student=false"
            raise UserError(f"{error}; this distillation cannot go on with other heads: {mend}") from None

    def parameter_groups(self) -> list[dict[str, Any]]:
        student, heads = super().parameter_groups()
        return [student, heads | {"lr_scale": self.config.distill.head_lr / self.options.optimizer.lr}]

    def learning_rates(self) -> list[float]:
        """The student's is 0 while the discriminator learns alone, and has its warm-up after that."""
        student, heads = super().learning_rates()
        first, warmup = self.config.distill.heads_first, self.options.warmup
        if first and warmup:
            student = min(student, self.options.optimizer.lr * (self.step - first + 1) / warmup)
        return [student if self.step >= first else 0.0, heads]

    def update_masks(self, skip: Tensor) -> UpdateReport | None:
        """None while the discriminator learns alone: weights that do not learn should not be pruned."""
        return super().update_masks(skip) if self.step > self.config.distill.heads_first else None

    def build_objective(self) -> Callable[..., Tensor]:
        sample, options = self.config.sample, self.config.distill
        n_timestep = self.config.model.beta_schedule.val.n_timestep
        plan = SamplingPlan.parse(sample.key_steps, sample.steps, n_timestep)
        assert isinstance(self.network, Network) and sample.start is not None  # as core.config.rules sees to
        student = StudentChain(self.network, plan, sample.start, sample.consistency, self.processes.device)
        self.objective = DistillationLoss(
            student,
            self.teacher,
            self.discriminator,
            feature_weight=options.feature_weight,
            adversarial_weight=options.adversarial_weight,
            texture_weight=options.texture_weight,
            level_weights=options.level_weights,
            perceptual=self.perceptual,
            perceptual_weight=options.perceptual_weight,
            perceptual_heads=options.perceptual_heads,
            mirror_weight=options.mirror_weight,
            pattern_weight=options.pattern_weight,
        )
        return self.objective

    def draw(self, batch: dict[str, Any]) -> Drawn:
        """A batch of the data -> ((lr, hr, noise, teacher's noise, its γ, rows, columns), (p, weight of pixels))."""
        options, on_host, on_device = self.config.distill, *self.generators()
        lr, hr, scale = self.draw_images(batch, on_host)
        images, own = self.processes.world * len(hr), self.own_share(len(hr))
        low, high = options.teacher_noise
        sigma = low + (high - low) * torch.rand(images, generator=on_host) ** options.teacher_noise_power
        rows = draw_view(images, hr.shape[2], options.shift, False, on_host)
        columns = draw_view(images, hr.shape[3], options.shift, True, on_host)
        drawn = (part[own].to(hr.device, non_blocking=True) for part in ((1 - sigma**2).sqrt(), rows, columns))
        noise, teacher_noise = self.draw_noise(hr, on_device), self.draw_noise(hr, on_device)
        return (lr, hr, noise, teacher_noise, *drawn), (scale, self.set_of(batch).pixel_weight)

    def train_step(self, batch: dict[str, Any] | None) -> None:
        super().train_step(batch)
        self.parts += self.objective.parts.masked_fill(self.skips.in_a_row > 0, 0)

    def summary(self) -> str:
        return f"{super().summary()}; teacher {self.config.distill.teacher}"

    def report(self, bar: tqdm) -> None:
        """The parts of the loss, before the line with the whole."""
        means = (self.processes.sum(self.parts) / self.processes.world / self.skips.kept).tolist()
        self.parts.zero_()
        parts = dict(zip(DistillationLoss.PARTS, means, strict=True))
        self.board.scalars({f"distill/{name}": value for name, value in parts.items()}, self.step)
        self.log.info(told(parts))
        super().report(bar)


def told(parts: Mapping[str, float]) -> str:
    """The parts of the loss in a line, but for those that nothing asks for, which are 0."""
    return "parts of the loss: " + "  ".join(f"{name} {value:.4f}" for name, value in parts.items() if value != 0)


def refuse_other_levels(weights: Sequence[float], levels: int) -> None:
    """One line where distill.level_weights are not those of a teacher with that many levels."""
    if weights and len(weights) != levels + 1:
        needed = f"one for each of the {levels} levels of the teacher, the finest first, and one for its bottleneck"
        raise UserError(f"distill.level_weights has {len(weights)} weights, but needs {levels + 1}: {needed}")


def teacher_of(resume: str | Path, options: DistillSection) -> str:
    """The checkpoint of the teacher: the one that the config names, else the one that the checkpoint `resume` notes as
    the teacher of its own network, else `resume`.

    A fresh student that begins takes nothing from `resume`, so `resume` is its teacher, whatever it notes. Where the
    noted one is not here, `resume` stands in if the loss does not ask the teacher; if it does, UserError is raised.
    """
    if options.teacher:
        return options.teacher
    noted = None if options.fresh_student and not is_own(resume) else saved_teacher(resume)
    if noted is None or is_here(noted):
        return noted or str(resume)
    if asks_teacher(options):
        mend = "name yours with --set distill.teacher=CHECKPOINT"
        raise UserError(f"distill.teacher: {noted}, noted in {resume}, is not here: {mend}")
    return str(resume)


def is_here(checkpoint: str) -> bool:
    try:
        return is_file(find_checkpoint(checkpoint).network)
    except (UserError, DataError, SparseError):
        return False


def is_own(checkpoint: str | Path) -> bool:
    """Whether it is one that a distillation wrote, to be continued."""
    return saved_teacher(checkpoint) is not None and find_checkpoint(checkpoint).training is not None


def saved_teacher(checkpoint: str | Path) -> str | None:
    """The teacher that a student's config tells; None where the checkpoint is no student's."""
    config = saved_config(checkpoint)
    return config.distill.teacher if config and "distill" in config else None
