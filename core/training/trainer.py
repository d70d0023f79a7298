"""The training loop.

Nothing random is carried from step to step: what is drawn in a step follows from (seed, step), and which images it
sees from its number, so a run continues exactly, and one process draws what several would.
"""

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.checkpoint.files import TrainingState, find_checkpoint, load_training_state, save_checkpoint
from core.checkpoint.lost_files import tell_without_training
from core.checkpoint.network_file import load_weights
from core.config import Config
from core.config.sections import TrainingImagesSection
from core.device import autocast, one_thread, uses_graphs
from core.errors import Interrupted, UserError
from core.experiment import experiment_folder, refuse_fresh_start
from core.network_size import parameter_count
from core.processes import Processes
from core.sampling.chain_progress import duration
from core.sampling.memory import peak_memory
from core.sampling.super_resolution import Sampling
from core.training.board import Board
from core.training.ema import EMA
from core.training.gradients import FlatGradients, ForwardBackward, Skips, step_unless
from core.training.kept_checkpoints import KeptCheckpoints
from core.training.mask_updates import MaskUpdates
from core.training.optimizer import build_optimizer, learning_rate, load_moments
from core.training.sparse_stage import build_masker, masker_counters
from core.training.stopping import Stop, stop_requested
from core.validation import CannotValidate, check_validation, validate_all
from data import DataError, SRDataset, train_loader
from data.mixture import Mixture
from data.tensors import from_levels, to_levels
from model import Network, build_network
from model.conditioning import relative_scale
from model.diffusion import DiffusionLoss, draw_noise_levels, draw_side, draw_sizes
from model.fast import release
from model.resampling import resample
from model.schedule import NoiseSchedule
from sparse import UpdateReport

Drawn = tuple[tuple[Tensor, ...], tuple[float, ...]]  # what an objective takes: tensors and constants


class Trainer:
    """Everything that training changes (network, EMA, optimiser, masks, step) and the loop that changes it.

    Another kind of training is a subclass with another `build_objective`, `draw` or `build_modules`.
    """

    def __init__(
        self, config: Config, processes: Processes, log: Logger, resume: str | Path | None = None, mirror: Any = None
    ):
        self.config, self.processes, self.log = config, processes, log
        self.options = config.train
        self.folder = experiment_folder(config)
        self.images = training_images(config)
        check_validation(config, processes.device)
        torch.manual_seed(self.options.seed)
        saved = self.load_state(resume) if resume else None
        self.step = saved.step if saved else 0  # optimiser steps so far: the one counter of a run
        if self.step == 0:
            refuse_fresh_start(config)
            if resume and config.phase == "train":
                files = find_checkpoint(resume)
                tell_without_training(files.network, files.training)
        with one_thread():
            self.network = self.build_network(initialised=saved is None)
        self.modules = self.build_modules()
        self.optimizer = build_optimizer(self.parameter_groups(), self.options.optimizer, processes.device)
        if saved:
            load_weights(self.network, saved.weights, f"{resume}")
            self.load_modules(saved)
            load_moments(self.optimizer, self.trained(), saved.optimizer)
        processes.broadcast(parameter.data for parameter in self.trained().values())
        with one_thread():
            self.masker = build_masker(self.network, self.optimizer, config, saved, processes.broadcast)
        self.ema = self.build_ema(saved)
        self.schedule = NoiseSchedule(config.model.beta_schedule.train)
        self.gradients = FlatGradients(self.trained().values())
        self.forward_backward = ForwardBackward(
            self.build_objective(),
            self.gradients,
            context=lambda: autocast(processes.device, self.options.precision),
            graphs=uses_graphs(processes.device) and self.options.cuda_graphs,
        )
        self.board = Board(self.folder("tb_logger"), processes.is_main, purge_step=self.step + 1, mirror=mirror)
        self.mask_updates = MaskUpdates(self.folder, self.board, self.step, processes.is_main)
        self.losses = torch.zeros((), device=processes.device)  # summed since the last line of the log
        self.norms = torch.zeros_like(self.losses)  # the same of the gradients' norms
        self.skips = Skips(processes.device)
        self.kept = KeptCheckpoints(self.folder("checkpoint"), self.options.keep_checkpoints, resume, log)
        self.drawn: Drawn | None = None  # of the last batch
        self.begun: Callable[[], None] = lambda: None  # called when a step is done for which all processes had images
        self.saved_step, self.last_checkpoint = self.step, resume  # of the last checkpoint that is known to be good

    # -----------------------------------------------------------------------------------------------------------------
    # What another kind of training replaces.

    def build_network(self, initialised: bool) -> Network:
        """The network, on the device. initialised: False where a checkpoint's weights follow. Processes other
        than the main one get its weights."""
        initialised = initialised and self.processes.is_main
        return build_network(self.config.model, initialised=initialised).to(self.processes.device)

    def build_objective(self) -> Callable[..., Tensor]:
        """The function of what `draw` gives, (*tensors, *constants), whose result, a scalar, is minimised."""
        return DiffusionLoss(self.network, self.options.loss)

    def build_modules(self) -> dict[str, nn.Module]:
        """What is trained beside the network, by name, on the device. It is saved with its moments, never
        masked or averaged, and no part of the network file. A name has no "/".
        """
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups: the network's, and one of each further module.

        A group may have options of its own (betas, ...), and an `lr_scale` that multiplies its learning rate.
        """
        return [{"params": list(module.parameters())} for module in (self.network, *self.modules.values())]

    def learning_rates(self) -> list[float]:
        """Those of the optimiser's groups in the next step."""
        rate = learning_rate(self.step, self.options)
        return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def load_state(self, resume: str | Path) -> TrainingState:
        """What a checkpoint holds to go on from."""
        return load_training_state(resume, self.config)

    def draw(self, batch: dict[str, Any]) -> Drawn:
        """A batch of the data -> (tensors, constants), what the objective takes, on the device.

        Here the tensors are (lr, hr, noise, noise level), of B images each, and the constant is the scale. Each
        combination of constants is captured as a CUDA graph of its own. All noise of the step is drawn here.
        """
        on_host, on_device = self.generators()
        own = self.own_share(len(batch["hr"]))
        levels = draw_noise_levels(self.schedule, self.processes.world * len(batch["hr"]), on_host)[own]
        lr, hr, scale = self.draw_images(batch, on_host)
        return (lr, hr, self.draw_noise(hr, on_device), levels.to(hr.device, non_blocking=True)), (scale,)

    def draw_images(self, batch: dict[str, Any], on_host: torch.Generator) -> tuple[Tensor, Tensor, float]:
        """lr and hr on the device, in drawn sizes where the config says so, and the scale p of these."""
        lr, hr = (batch[key].to(self.processes.device, non_blocking=True) for key in ("lr", "hr"))
        if sizes := self.set_of(batch).sizes:
            lr, hr = resized(lr, hr, *draw_sizes(sizes, on_host))
            return lr, hr, relative_scale(hr.shape[2:], lr.shape[2:], self.config.magnification)
        if not self.options.continuous_scale:
            return lr, hr, 1.0
        scale, side = draw_side(lr.shape[-1], hr.shape[-1], self.options.scale_step, on_host)
        return lr, resample(hr, (side, side)) if side != hr.shape[-1] else hr, scale

    def draw_noise(self, hr: Tensor, on_device: torch.Generator) -> Tensor:
        """Gaussian noise in the shape of hr."""
        shape = (self.processes.world * len(hr), *hr.shape[1:])
        return torch.randn(shape, generator=on_device, device=hr.device)[self.own_share(len(hr))]

    def own_share(self, images: int) -> slice:
        """Where the images of this process are in what is drawn for the batch of all processes."""
        return slice(self.processes.rank * images, (self.processes.rank + 1) * images)

    # -----------------------------------------------------------------------------------------------------------------
    # Setting up, afresh or from a checkpoint.

    def trained(self) -> dict[str, nn.Parameter]:
        """All parameters that are trained: the network's by their names, a module's as "module/parameter"."""
        parameters = dict(self.network.named_parameters())
        for name, module in self.modules.items():
            parameters |= {f"{name}/{key}": parameter for key, parameter in module.named_parameters()}
        return parameters

    def build_ema(self, saved: TrainingState | None) -> EMA:
        options = self.options.ema_scheduler
        ema = EMA(self.network, options.ema_decay, options.step_start_ema, options.update_ema_every)
        if saved:
            load_weights(ema.network, saved.ema, "the checkpoint")
            if self.masker:
                ema.mask(self.masker)
        return ema

    def load_modules(self, saved: TrainingState) -> None:
        """Gives the further modules what a checkpoint holds of them; one that it does not know starts afresh."""
        for name in self.modules.keys() & saved.modules.keys():
            load_weights(self.modules[name], saved.modules[name], f"the checkpoint's {name}")

    def state(self) -> TrainingState:
        """All that continuing from this step takes."""
        masker = self.masker
        return TrainingState(
            weights=self.network.state_dict(),
            ema=self.ema.network.state_dict(),
            masks=dict(masker.masks) if masker else {},
            step=self.step,
            masker=masker_counters(masker) if masker else {},
            modules={name: module.state_dict() for name, module in self.modules.items()},
            optimizer={name: self.optimizer.state[parameter] for name, parameter in self.trained().items()},
        )

    def batches(self) -> Iterable[dict[str, Any]]:
        """The batches of this process from the current step on, for ever."""
        processes = self.processes
        batch_sizes = [images.batch_size * self.options.accumulate for images in self.training_sets]
        return train_loader(
            self.images,
            batch_sizes if isinstance(self.images, Mixture) else batch_sizes[0],
            self.options.seed,
            processes.rank,
            processes.world,
            self.step,
            workers=self.config.datasets.train.num_workers,
            pin_memory=processes.device.type == "cuda",
        )

    # -----------------------------------------------------------------------------------------------------------------
    # The loop.

    def fit(self) -> None:
        """Trains to the last step, with checkpoints, validations and lines of the log on the way."""
        start, end = self.step, self.last_step
        if self.step >= end:
            self.begun()
            which = "stop_at" if end < self.options.n_iter else "n_iter"
            self.log.info(f"at step {self.step}, nothing is left to train: raise train.{which} ({end}) to go on")
            return
        self.log.info(self.summary())
        remaining = itertools.islice(self.batches(), end - self.step)
        bar = tqdm(
            remaining, total=end, initial=self.step, disable=None if self.processes.is_main else True, unit="step"
        )
        self.began = self.since = time.perf_counter(), self.step
        with stop_requested(self.processes) as stop:
            for batch in stop.batches(bar):
                self.train_step(batch)
                last = self.step == end
                stopping, saving = stop.agreed(last)
                if stopping:
                    self.leave(bar, stop)
                if last or self.processes.world == 1 or self.step > start + 1:  # several tell each other a step late
                    self.begun()
                if self.skips.known >= self.options.max_skipped:
                    raise UserError(f"{self.skips.known} steps in a row, up to step {self.step}, {self.diverged()}")
                if self.step % self.options.print_freq == 0 or last:
                    self.report(bar)
                if self.step % self.options.save_checkpoint_freq == 0 or last or saving:
                    saved = self.save()
                    if last and not saved:
                        raise UserError(f"no checkpoint of the last step, {self.step}: its weights {self.diverged()}")
                if (self.step % self.options.val_freq == 0 or last) and not self.validate(stop):
                    self.leave(bar, stop)
        self.mask_updates.show(self.step)
        self.board.close()

    def train_step(self, batch: dict[str, Any] | None) -> None:
        """One optimiser step: loss, gradients, weights, masks, average.

        Where the loss or the gradient is not finite, or there is no batch, it changes nothing but the count of steps.
        """
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates(), strict=True):
            group["lr"] = rate
        if batch is not None:
            self.drawn = self.draw(batch)
        skip = self.compute_gradients(None if batch is None else self.drawn)
        self.losses += self.gradients.loss.masked_fill(skip.bool(), 0)
        self.norms += self.gradients.norm.masked_fill(skip.bool(), 0)
        step_unless(skip, self.optimizer)
        self.step += 1
        self.skips.count(skip)
        update = self.update_masks(skip)
        self.ema.update(self.network, self.step, skip)
        if self.masker and update:
            self.ema.mask(self.masker)
            self.mask_updates.add(self.masker, update, self.step)

    def compute_gradients(self, drawn: Drawn | None) -> Tensor:
        """The gradients of all processes' batches -> 1 where they or the loss are not finite, else 0, on the device."""
        self.gradients.zero()
        if drawn is None:
            self.gradients.loss.fill_(torch.nan)
        else:
            accumulate, (tensors, constants) = self.options.accumulate, drawn
            weight = 1 / (accumulate * self.processes.world)
            for part in zip(*(tensor.chunk(accumulate) for tensor in tensors), strict=True):
                self.gradients.loss.add_(self.forward_backward(part, constants, weight), alpha=weight)
        self.processes.sum(self.gradients.buffer)
        return self.gradients.clip(self.options.grad_clip)

    def update_masks(self, skip: Tensor) -> UpdateReport | None:
        """Keeps to the masks after a step, and updates them when it is time -> what that changed. A step that was
        skipped has no update."""
        if self.masker is None or (self.masker.schedule.is_due(self.step) and skip):
            return None
        return self.masker.step(self.step)

    def generators(self) -> tuple[torch.Generator, torch.Generator]:
        """The sources of all that this step draws, on the host and on the device, equal in all processes. That of
        dropout, which each process draws for itself, is set here too."""
        seed = int(np.random.SeedSequence((self.options.seed, self.step)).generate_state(1, np.uint64)[0] >> 1)
        torch.manual_seed(seed + self.processes.rank)
        return torch.Generator().manual_seed(seed), torch.Generator(self.processes.device).manual_seed(seed)

    # -----------------------------------------------------------------------------------------------------------------
    # What is written on the way.

    def report(self, bar: tqdm) -> None:
        """Loss since the last line, learning rate, speed, time left; here the host waits for the device."""
        (start, first), self.since = self.since, (time.perf_counter(), self.step)
        steps, kept = self.step - first, int(self.skips.kept)
        loss, norm = (total.item() / kept if kept else np.nan for total in (self.losses, self.norms))
        for total in (self.losses, self.norms, self.skips.kept):
            total.zero_()
        rate = steps * self.images_per_step / (self.since[0] - start)
        lr = self.optimizer.param_groups[0]["lr"]
        scalars = {"train/loss": loss, "train/gradient_norm": norm} if kept else {}
        scalars |= {"train/lr": lr, "train/images_per_second": rate, "train/skipped": steps - kept}
        self.board.scalars(scalars | {"train/memory_gb": peak_memory(self.processes.device)}, self.step)
        bar.set_postfix(loss=f"{loss:.4f}")
        where = f"step {self.step}/{self.options.n_iter}  epoch {self.epoch}"
        skipped = f"  {steps - kept} skipped: loss or gradient not finite" if kept < steps else ""
        left = f"  {duration(self.seconds_left())} left" if self.step < self.last_step else ""
        self.log.info(f"{where}  loss {loss:.4f}  lr {lr:.2e}  {rate:.1f} images/s{skipped}{left}")

    def seconds_left(self) -> float:
        """Until the last step, at the pace of this process so far, checkpoints and validations included."""
        start, first = self.began
        return (time.perf_counter() - start) / max(self.step - first, 1) * (self.last_step - self.step)

    def validate(self, stop: Stop) -> bool:
        """Metrics and pictures of the EMA network on every validation set of the config -> whether neither a signal
        nor a fault came before the end."""
        network = self.ema.network
        sampling = Sampling.of(self.config.sample, network.schedule)
        try:
            reports = validate_all(
                network,
                self.config,
                sampling,
                self.processes,
                step=self.step,
                log=self.log,
                density=self.density,
                interruptible=stop.until_asked,
            )
        except Interrupted:
            return False
        except CannotValidate as error:
            stop.problem = error
            return False
        finally:
            release(network)
        scores = [report["mean"]["psnr"] for report in reports.values() if "psnr" in report["mean"]]
        if self.processes.is_main and self.saved_step == self.step and scores:
            self.kept.score(Path(str(self.last_checkpoint)).name, scores[0])
        self.board.reports(reports, self.step)
        self.since = time.perf_counter(), self.step
        return True

    def save(self) -> bool:
        """Writes a checkpoint of this step, by the main process, where the weights are worth it -> whether they are."""
        if not self.is_sound():
            self.log.warning(f"step {self.step} is not saved: its weights give a loss or gradient that is not finite")
            return False
        prefix = self.folder("checkpoint") / f"I{self.step}_E{self.epoch}"
        self.processes.on_main(lambda: save_checkpoint(prefix, self.config, self.state()))
        self.log.info(f"saved {prefix}_gen.safetensors")
        if self.processes.is_main:
            self.kept.add(prefix.name)
        self.saved_step, self.last_checkpoint = self.step, prefix
        return True

    def is_sound(self) -> bool:
        """Whether the weights give a finite loss and gradient on the last batch or, if not, the next."""
        if not self.compute_gradients(self.drawn):
            return True
        drawn = None
        with contextlib.suppress(DataError):
            drawn = self.draw(next(iter(self.batches())))
        return not self.compute_gradients(drawn)

    def leave(self, bar: tqdm, stop: Stop) -> None:
        """Saves what has been trained, and raises what the training stops for."""
        self.step -= int(self.skips.in_a_row)  # steps that changed nothing are to be done again
        if stop.signal:
            self.log.info(f"asked to stop by {signal.Signals(stop.signal).name}, at step {self.step}")
        if self.step > self.saved_step:
            if self.skips.kept:
                self.report(bar)
            self.save()
        stop.raise_cause()

    def diverged(self) -> str:
        """The words after which a training ends that is no longer finite."""
        clip = "a lower train.grad_clip" if self.options.grad_clip else "train.grad_clip"
        advice = f"with a lower train.optimizer.lr (now {self.options.optimizer.lr:g}) or {clip}"
        if self.last_checkpoint is None:
            return f"gave a loss or gradient that is not finite; nothing good was saved: begin again {advice}"
        good = f"the last good checkpoint is {self.last_checkpoint}"
        return f"gave a loss or gradient that is not finite; {good}: continue it with -r, and {advice}"

    @property
    def last_step(self) -> int:
        """The one after which this training ends, or this stage of it."""
        return min(self.options.n_iter, self.options.stop_at or self.options.n_iter)

    @property
    def epoch(self) -> int:
        """How often the images have been seen, rounded up."""
        return math.ceil(self.step * self.images_per_step / len(self.images))

    @property
    def training_sets(self) -> list[TrainingImagesSection]:
        return list(self.config.datasets.training.values())

    def set_of(self, batch: dict[str, Any]) -> TrainingImagesSection:
        """The set that all images of a batch are from."""
        return self.training_sets[int(batch["set"][0]) if "set" in batch else 0]

    @property
    def images_per_step(self) -> float:
        """Of all processes together; where several sets are mixed, on average."""
        shares = [images.share for images in self.training_sets]
        drawn = sum(images.share * images.batch_size for images in self.training_sets) / sum(shares)
        return drawn * self.options.accumulate * self.processes.world

    @property
    def density(self) -> float:
        """Active share of the prunable weights."""
        return self.masker.density if self.masker else 1.0

    def summary(self) -> str:
        parameters = parameter_count(self.network)
        sparsity = f"sparse momentum at density {self.density:.4g}" if self.masker else "dense"
        batch = " or ".join(str(images.batch_size) for images in self.training_sets)
        return (
            f"training {self.config.name}: {parameters:,} parameters, {sparsity}; {len(self.images)} images, "
            f"batch {batch} × {self.processes.world} on {self.processes.device}; "
            f"step {self.step} → {self.options.n_iter}"
        )


def training_images(config: Config) -> SRDataset | Mixture:
    """The images of datasets.train, mixed with those of the further sets where there are any; of each set, the first
    could be read."""
    sections = config.datasets.training
    sets = [SRDataset(images, train=True, section=f"datasets.{name}") for name, images in sections.items()]
    for images in sets:
        images[0]  # raises DataError where its size is not the config's: better before the readers start
    return sets[0] if len(sets) == 1 else Mixture(sets, [images.share for images in sections.values()])


def resized(lr: Tensor, hr: Tensor, lr_side: int, hr_side: int) -> tuple[Tensor, Tensor]:
    """A batch of pairs (B, 3, l, l), (B, 3, r, r) in other sizes. LR is made of HR, as in data.dataset, and has 8 bits;
    where it has the size already it stays."""
    if lr_side != lr.shape[-1]:
        lr = from_levels(to_levels(resample(hr, (lr_side, lr_side))))
    return lr, resample(hr, (hr_side, hr_side)).clamp(-1, 1) if hr_side != hr.shape[-1] else hr
