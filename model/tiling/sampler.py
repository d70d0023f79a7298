"""Sampling of an image that is too large to be computed at once: tile by tile, as if at once."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from model.network import Network
from model.sampler import noisy
from model.sampling.checks import check_inputs, check_settings, check_tiles
from model.sampling.group_decoding import predictions_of_group
from model.sampling.noise import Noise, noise_of_chain
from model.sampling.plan import SamplingPlan
from model.sampling.solvers import Steps
from model.sampling.steps import clean_estimate, next_state
from model.sampling.trajectory import trajectory_of
from model.tiling.network import Size, TiledNetwork
from model.tiling.plan import Tile, batches_of_tiles, crop, plan_tiles
from model.tiling.resampling import resample_window
from model.tiling.statistics import Looking

SAMPLE_TILE, SAMPLE_OVERLAP, LEAST_WINDOWS = 64, 32, 16  # of the sample that norms are measured on
CORRECTIONS = 1  # times that what the sample tells of the image is compared with the image

OnBatch = Callable[[int, int], None]  # on_batch(batches done, of how many)


@torch.no_grad()
def sample_tiled(
    network: Network,
    lr_image: Tensor,  # (1, 3, h, w) in [-1, 1]
    size: Size,  # (H, W) of the result
    plan: SamplingPlan,
    solver: str = "ddpm",
    seeds: Sequence[int] | None = None,  # one
    *,
    tile: int,  # side of a tile, in pixels of the result
    overlap: int,  # pixels beyond its tile, on each side, that a window has
    most_pixels: int = 0,  # of windows at once; one window at least is computed
    noise: Noise | None = None,
    eta: float = 0.0,
    consistency: int = 0,
    start: float | None = None,
    prior_noise: float = 0.0,
    decode: str = "every",
    scale: float = 1.0,
    on_batch: OnBatch | None = None,  # after each batch of tiles, also of those that only norms are measured on
) -> Tensor:  # (3, H, W) uint8, on the CPU
    """What `model.sampler.sample` makes of one image, from the same noise, with the device's memory for some tiles.

    The chain's state is on the CPU: 12 bytes a pixel, twice that in a chain of more than one group. A network with
    attention attends within windows. Raises ModelError as `sample` does, and FloatingPointError where a value is not
    finite.
    """
    check_settings(eta, consistency, start, prior_noise, decode, None)
    check_tiles(tile, overlap)
    check_inputs(network, lr_image, size, plan, scale)
    device = next(network.parameters()).device
    trajectory = trajectory_of(network.schedule, plan, solver, network.prediction, eta, start, device)
    plan = trajectory.plan
    half = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if half else torch.float32
    tiled = TiledNetwork(network, lr_image.to(device, torch.float32), size, dtype)
    chain = TiledChain(tiled, trajectory.steps, trajectory.levels, decode, consistency, scale)
    chain.plan_batches(tile, overlap, most_pixels, len(plan.groups), on_batch)
    noise = noise_of_chain(noise, seeds, 1, device)
    chain.begin(noise, None if start is None else trajectory.alpha_bar, keep_noise=prior_noise > 0)
    for group in plan.groups:
        chain.draw_noise(noise, group)
        if prior_noise and 2 * group.start >= plan.steps:
            chain.add_noise(prior_noise)
        chain.settle(group)
        chain.take(group)
    return chain.image


class TiledChain:
    """A chain of one image. Between groups its state is whole; a group is computed tile by tile."""

    x: Tensor  # (3, H, W) float32, the state
    x0: Tensor | None = None  # (3, H, W), ŷ_0 of the step before, where the solver asks for it
    initial_noise: Tensor | None = None  # (3, H, W), where some of it is added later
    drawn: dict[int, Tensor]  # order -> (3, H, W), the noise of the steps of a group
    image: Tensor  # (3, H, W) uint8, the result, once the last group is taken

    def __init__(
        self,
        network: TiledNetwork,
        steps: Steps,
        levels: Tensor,  # γ of each step (S,), on the device
        decode: str,
        consistency: int,
        scale: float,
    ) -> None:
        self.network, self.steps, self.levels = network, steps, levels
        self.decode, self.consistency, self.scale = decode, consistency, scale
        self.canvas, self.device = network.canvas, levels.device

    def plan_batches(self, tile: int, overlap: int, most_pixels: int, groups: int, on_batch: OnBatch | None) -> None:
        size, multiple = self.canvas.size, self.network.multiple
        self.batches = list(batches_of_tiles(plan_tiles(size, tile, overlap, multiple), most_pixels))
        most = max(most_pixels, (tile + 2 * overlap) ** 2)
        even = [length // multiple * multiple or length for length in size]  # so that all windows have one shape
        self.sample = spread(plan_tiles(even, SAMPLE_TILE, SAMPLE_OVERLAP, multiple), most)
        self.done, self.on_batch = 0, on_batch
        is_whole = len(self.batches) == len(self.batches[0]) == 1  # one window: norms take what they measure
        self.measures = self.network.has_norms and not is_whole
        measured = 0 if not self.measures else CORRECTIONS * (1 + len(self.batches)) + 1
        self.total = groups * (measured + len(self.batches))

    # What is whole.

    def begin(self, noise: Noise, alpha_bar: float | None, keep_noise: bool) -> None:
        """The state at the begin of the chain: noise, or with ᾱ, the LR image under noise."""
        self.x = noise(0, (1, 3, *self.canvas.size))[0].cpu()
        if keep_noise:
            self.initial_noise = self.x.clone()
        if alpha_bar is None:
            return
        for tile in (tile for batch in self.batches for tile in batch):
            core, known = (slice(None), tile.rows.core, tile.columns.core), self.canvas.lr_window(tile, margin=2)
            sizes = self.canvas.lr_size, self.canvas.size
            upsampled = resample_window(crop(self.network.lr_image, known), known, core[1:], sizes)
            self.x[core] = noisy(upsampled[0].cpu(), self.x[core], alpha_bar)

    def draw_noise(self, noise: Noise, group: range) -> None:
        shape = (1, 3, *self.canvas.size)
        self.drawn = {n: noise(n + 1, shape)[0].cpu() for n in group if self.steps.adds_noise(n)}

    def add_noise(self, weight: float) -> None:
        assert self.initial_noise is not None
        self.x.add_(self.initial_noise, alpha=weight)

    # What is done tile by tile.

    def settle(self, group: range) -> None:
        """Finds the moments of all norms: those of the whole image, though it is never there."""
        statistics = self.network.statistics
        statistics.forget()
        if not self.measures:
            return
        self.pass_over([self.sample], group)
        for _ in range(CORRECTIONS):
            statistics.looking = Looking.AT_ALL
            self.pass_over(self.batches, group)
            statistics.correct()
            statistics.looking = Looking.AT_SAMPLE
            self.pass_over([self.sample], group)
        statistics.looking = Looking.KNOWING

    def pass_over(self, batches: Sequence[Sequence[Tile]], group: range) -> None:
        for batch in batches:
            for _ in self.predictions(group, batch, self.windows(self.x, batch)):
                pass
            self.tell()

    def take(self, group: range) -> None:
        """The steps of a group: a new state, or at the end of the chain, the image."""
        is_last = group.stop == len(self.steps)
        x_next = torch.empty((3, *self.canvas.size), dtype=torch.uint8 if is_last else torch.float32)
        keeps_x0 = not is_last and self.steps[group.stop].previous is not None
        x0_next = torch.empty_like(x_next) if keeps_x0 else None
        for batch in self.batches:
            x, x0 = self.take_steps(group, batch)
            if not x.isfinite().all():
                raise FloatingPointError("values that are not finite")
            put(x_next, to_uint8(x) if is_last else x, batch)
            if x0_next is not None:
                put(x0_next, x0, batch)
            self.tell()
        if is_last:
            self.image = x_next
        else:
            self.x, self.x0 = x_next, x0_next

    def take_steps(self, group: range, batch: Sequence[Tile]) -> tuple[Tensor, Tensor]:
        """-> the states of some windows after the group, and their ŷ_0."""
        x = self.windows(self.x, batch)
        x0_before = None if self.x0 is None else self.windows(self.x0, batch)
        for orders, predictions in self.predictions(group, batch, x):
            for order, prediction in zip(orders, predictions.float(), strict=True):
                step = self.steps[order]
                x0 = clean_estimate(step, x, prediction, self.network.lr_image, consistency=0)
                for _ in range(self.consistency):
                    x0 = self.back_project(x0, batch)
                x0 = x0.clamp(-1, 1)
                x = next_state(step, x, x0, x0_before, lambda i, shape: self.windows(self.drawn[i - 1], batch), order)
                x0_before = x0
        assert x0_before is not None
        return x, x0_before

    def predictions(self, group: range, batch: Sequence[Tile], x: Tensor) -> Iterator[tuple[range, Tensor]]:
        """(orders, their predictions (K, B, 3, H, W)), run after run."""
        self.network.look_at(batch)
        condition = self.network.condition(self.scale)
        levels = self.levels[:, None].expand(-1, len(batch))
        state = self.network.encode(x, levels[group.start], condition)
        decode = partial(self.network.decode, state, condition=condition)
        yield from predictions_of_group(decode, levels, group, self.decode, one_by_one)

    def back_project(self, x0: Tensor, batch: Sequence[Tile]) -> Tensor:
        """ŷ_0 + up(x_lr - down(ŷ_0)), as `model.sampling.steps.clean_estimate` does it."""
        size, lr_size = self.canvas.size, self.canvas.lr_size
        projected = []
        for image, tile in zip(x0, batch, strict=True):
            window, known = (tile.rows.window, tile.columns.window), self.canvas.lr_window(tile)
            residual = crop(self.network.lr_image, known) - resample_window(image[None], window, known, (size, lr_size))
            projected.append(image + resample_window(residual, known, window, (lr_size, size))[0])
        return torch.stack(projected)

    def windows(self, whole: Tensor, batch: Sequence[Tile]) -> Tensor:
        """(3, H, W) -> (B, 3, h, w) on the device."""
        return torch.stack([whole[:, tile.rows.window, tile.columns.window] for tile in batch]).to(self.device)

    def tell(self) -> None:
        self.done += 1
        if self.on_batch:
            self.on_batch(self.done, self.total)


def put(whole: Tensor, windows: Tensor, batch: Sequence[Tile]) -> None:
    """Writes the cores of windows (B, 3, h, w) into an image (3, H, W)."""
    for image, tile in zip(windows, batch, strict=True):
        core = image[:, tile.rows.core_in_window, tile.columns.core_in_window]
        whole[:, tile.rows.core, tile.columns.core] = core.to(whole.device)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> the nearest of 256 levels."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def one_by_one(orders: range) -> Iterator[range]:
    return (range(order, order + 1) for order in orders)


def spread(tiles: Sequence[Tile], most_pixels: int) -> list[Tile]:
    """Tiles from all over the image, as many as these pixels, and some at least."""
    most = max(most_pixels // (tiles[0].shape[0] * tiles[0].shape[1]), LEAST_WINDOWS)
    count = min(most, len(tiles))
    return [tiles[(2 * n + 1) * len(tiles) // (2 * count)] for n in range(count)]
