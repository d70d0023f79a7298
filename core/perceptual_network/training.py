"""The training of a perceptual network on images without labels, see model/distillation/perceptual_network.py."""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from core.checkpoint.network_file import writable_network_file
from core.checkpoint.tensor_files import read_safetensors, write_safetensors
from core.device import autocast, one_thread, out_of_memory_said, pick_device
from core.errors import UserError
from core.inference.input_files import LeftOut, images_of_folder
from core.lines import write_line
from data.images import read_rgb
from data.paths import is_file, refuse_unseen
from data.tensors import from_levels, to_levels, to_tensor
from model.distillation.perceptual_network import SPOILED, PerceptualNetwork
from model.resampling import resample

COMMAND = "python -m core.perceptual_network"
DESCRIPTION = "perceptual_network"  # in the metadata of its file
CROP = 64  # pixels
LARGEST = 480  # pixels of an image's side that are kept
WARMUP = 200  # steps
PRINT_EVERY = 250  # steps


def load_perceptual_network(file: str | Path, device: torch.device) -> PerceptualNetwork:
    """The network of a file, frozen, in float32. Raises UserError where the file is none of COMMAND's."""
    if not is_file(file):
        refuse_unseen(file, "distill.perceptual_network")
        raise UserError(f"distill.perceptual_network: {file} is no file: make it with {COMMAND}")
    tensors, metadata = read_safetensors(Path(file))
    try:
        with torch.device("meta"):  # takes no memory before the shapes are compared
            network = PerceptualNetwork(**json.loads(metadata[DESCRIPTION]))
        network.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"distill.perceptual_network: {file} is no file of {COMMAND}; make one with it") from None
    return network.to(device, torch.float32).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def make_perceptual_network(arguments: Namespace) -> None:
    """Trains what the command line asks for, and writes it."""
    device, folder = pick_device(arguments.device), Path(arguments.images)
    files = image_files(folder)
    target = writable_network_file(arguments.output)
    with out_of_memory_said(f"--images {folder}: too little memory; try fewer images, a smaller --batch or --width"):
        images = Images(files, device)
        network = trained(images, arguments.steps, arguments.batch, arguments.width, arguments.seed)
    described = json.dumps({"images": len(images), "width": arguments.width})
    write_safetensors(target, network.state_dict(), {DESCRIPTION: described})
    print(f"{target}: of {len(images)} images, {target.stat().st_size / 1e6:.1f} MB")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder; what is left out is told. Raises UserError where there are fewer than two."""
    found = LeftOut()
    files, left_out = images_of_folder("--images", folder, found), found.in_short()
    if len(files) < 2:
        reason = f" ({left_out})" if left_out else ""
        raise UserError(f"--images {folder}: two images or more are needed, and {len(files)} found{reason}")
    if left_out:
        write_line(f"--images {folder}: {left_out}", sys.stderr)
    return files


def trained(images: "Images", steps: int, batch: int, width: int, seed: int = 0) -> PerceptualNetwork:
    """A network that has learnt from the images for so many steps."""
    torch.manual_seed(seed)
    device = images.pixels.device
    network = PerceptualNetwork(len(images), width).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    mean = torch.zeros(3, device=device)  # of the parts of the loss, since the last line
    for step in tqdm(range(1, steps + 1), unit="step", disable=None):
        crops, image = images.crops(batch)
        crops, way, severity = spoil(crops)
        with autocast(device):
            parts = network.loss(crops.contiguous(memory_format=torch.channels_last), image, way, severity)
        optimizer.zero_grad()
        parts.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        mean += parts.detach() / PRINT_EVERY
        if step % PRINT_EVERY == 0:
            tell(step, steps, mean.tolist())
            mean.zero_()
    return network


def rate(step: int, steps: int) -> float:
    """Of the learning rate: a warm-up, and a cosine to 0."""
    return min(1, (step + 1) / min(WARMUP, steps // 10 + 1)) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def tell(step: int, steps: int, parts: list[float]) -> None:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in zip(("image", "way", "severity"), parts, strict=True))
    with tqdm.external_write_mode():
        write_line(f"step {step}/{steps}  {losses}")


def read_middle(file: Path) -> Tensor:
    """The middle of an image, of at most LARGEST × LARGEST pixels: (3, H, W), 8 bits."""
    image = read_rgb(file)
    if min(image.size) < CROP:
        raise UserError(f"{file}: {image.width}x{image.height} is too small; images need {CROP}x{CROP} pixels or more")
    left, top = (max(side - LARGEST, 0) // 2 for side in image.size)
    middle = image.crop((left, top, min(left + LARGEST, image.width), min(top + LARGEST, image.height)))
    return to_levels(to_tensor(middle))


class Images:
    """Images in the device's memory, of which a batch of crops is drawn at once. Each takes what its own pixels do."""

    def __init__(self, files: list[Path], device: torch.device) -> None:
        with one_thread():  # several would spend more time on each other than on so few pixels
            images = [read_middle(file) for file in tqdm(files, unit="image", disable=None)]
        sides = torch.tensor([image.shape[1:] for image in images])
        sizes = sides.prod(1)
        self.pixels = torch.empty(int(sizes.sum()), 3, dtype=torch.uint8, device=device)  # row after row of each image
        for kept in reversed(self.pixels.split(sizes.tolist())):
            kept.copy_(images.pop().flatten(1).T)  # pop, so that none is in memory twice
        self.sides, self.least = sides.to(device), int(sides.min())
        self.starts = (sizes.cumsum(0) - sizes).to(device)  # where the pixels of each image begin

    def __len__(self) -> int:
        return len(self.sides)

    def crops(self, batch: int) -> tuple[Tensor, Tensor]:
        """-> (crops (B, 3, CROP, CROP) in [-1, 1], the number of the image of each). One zoom for all."""
        device = self.pixels.device
        side = min(int(torch.randint(CROP, 2 * CROP + 1, ())), self.least)
        numbers = torch.randint(len(self), (batch,), device=device)
        corners = torch.rand(batch, 2, device=device) * (self.sides[numbers] - side + 1)
        rows, columns = (corners.long()[:, axis, None] + torch.arange(side, device=device) for axis in (0, 1))
        begin, width = self.starts[numbers], self.sides[numbers, 1]
        places = (begin[:, None] + rows * width[:, None])[:, :, None] + columns[:, None]
        x = self.pixels[places].permute(0, 3, 1, 2).contiguous()
        x = resample(from_levels(x), (CROP, CROP))
        return self.varied(x), numbers

    @staticmethod
    def varied(x: Tensor) -> Tensor:
        """Flipped, turned, in other tones or grey: what does not tell one image from another."""
        draw = lambda *shape: torch.rand(len(x), *shape, device=x.device)  # noqa: E731
        x = torch.where(draw(1, 1, 1) < 0.5, x.flip(3), x)
        x = torch.where(draw(1, 1, 1) < 0.3, x.transpose(2, 3), x)
        toned = x * (0.7 + 0.6 * draw(1, 1, 1)) + 0.3 * (2 * draw(3, 1, 1) - 1)
        x = torch.where(draw(1, 1, 1) < 0.8, toned, x)
        x = torch.where(draw(1, 1, 1) < 0.3, x.mean(1, keepdim=True).expand_as(x), x)
        return x.clamp(-1, 1)


GROUP = 32  # crops that are spoiled as much as each other


def spoil(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-> (the crops, each spoiled in a way, the way (B,), how much (B,) in [0, 1])."""
    device = x.device
    way = torch.randint(len(SPOILED), (len(x),), device=device)
    groups = x.split(GROUP)
    amounts = torch.rand(len(groups))
    severity = amounts.repeat_interleave(GROUP)[: len(x)].to(device)
    ways = torch.cat(
        [torch.stack(each_way(crops, s)) for crops, s in zip(groups, amounts.tolist(), strict=True)], dim=1
    )
    spoiled = ways[way, torch.arange(len(x), device=device)].clamp(-1, 1)
    return spoiled, way, torch.where(way == 0, 0.0, severity)


def each_way(x: Tensor, severity: float) -> list[Tensor]:
    """The crops spoiled in each of the ways SPOILED."""
    side = max(round(CROP / (1.3 + 2.7 * severity)), 8)
    noisy = x + (0.02 + 0.14 * severity) * torch.randn_like(x)
    coarse = resample(resample(x, (side, side)), (CROP, CROP))
    sharpened = x + (0.4 + 1.6 * severity) * (x - blurred(x, 1.2))
    return [x, blurred(x, 0.3 + 1.2 * severity), noisy, coarse, sharpened]


def blurred(x: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-torch.arange(-5.0, 6.0, device=x.device).square() / (2 * sigma**2))
    taps = (taps / taps.sum()).to(x.dtype)
    kernel = taps.expand(x.shape[1], 1, 1, 11)
    x = F.conv2d(F.pad(x, (5, 5, 0, 0), mode="reflect"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, 5, 5), mode="reflect"), kernel.transpose(2, 3), groups=x.shape[1])
