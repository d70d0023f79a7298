"""What a network is for: its card, or without one, what its config tells."""

from collections.abc import Sequence
from pathlib import Path

from core.checkpoint.files import LoadedNetwork, find_checkpoint, load_checkpoint
from core.config import Config
from core.config.wording import readable
from core.network_size import active_share, parameter_count
from core.sampling.super_resolution import Sampling
from core.shipped import FILES

EXPORT = "python -m core.export -r {} -o NEW.safetensors --card FILE"


def about(checkpoint: str | Path) -> str:
    """A paragraph on a checkpoint, a line for each thing that is known of it."""
    file = find_checkpoint(checkpoint).network
    loaded = load_checkpoint(file)
    title = next((f"{name}: " for name, shipped in FILES.items() if shipped == file.resolve()), "")
    rows = facts(loaded, file)
    width = max(map(len, rows)) + 2
    lines = [f"{title}{file}, {file.stat().st_size / 1e6:.1f} MB"]
    return "\n".join([*lines, *(f"  {name:<{width}}{value}" for name, value in rows.items())])


def facts(loaded: LoadedNetwork, file: Path) -> dict[str, str]:
    config = loaded.config
    card = config.card
    rows = {
        "purpose": purpose(config),
        "inputs": f"{shown(card.inputs)} pixels, the longer side" if card.inputs else "",
        "results": usual_results(config),
        "magnification": f"{shown(card.magnifications)} times" if card.magnifications else "",
        "training data": card.data or "",
        "licence of data": card.licence or "",
        "network": size_of(loaded),
        "sampling": Sampling.of(config.sample, loaded.network.schedule, loaded.encoder_change).describe(),
        "card": "" if card.purpose else f"none; to write one: {EXPORT.format(file)}",
    }
    return {name: value for name, value in rows.items() if value}


def purpose(config: Config) -> str:
    """What the card says that the network is for, or else what its config tells."""
    if config.card.purpose:
        return config.card.purpose
    images = config.trained_images
    kind = "crops of images" if images.use_crop else "whole images"
    sides = f"{images.l_resolution} to {images.r_resolution} pixels"
    return f"{kind} like those of {readable(images.name)}, {sides} (by its config)"


def usual_results(config: Config) -> str:
    images = config.trained_images
    size = f"{images.magnification:g} times as large" if images.use_crop else f"of {images.r_resolution} pixels"
    return f"{size}, unless --scale or --size asks for another size"


def size_of(loaded: LoadedNetwork) -> str:
    total, active = parameter_count(loaded.network), active_share(loaded.network)
    saved = f", saved at step {loaded.step:,}" if loaded.step else ""
    return f"{total / 1e6:.1f} million parameters, {active:.0%} of the weights active{saved}"


def shown(limits: Sequence[float]) -> str:
    """A range, as [16, 64], in words."""
    low, high = limits
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def shown_factor(factor: float) -> str:
    """A magnification in digits, without an exponent."""
    return f"{factor:.3g}" if factor < 1000 else f"{factor:,.0f}"


def outside(config: Config, size: tuple[int, int], magnification: float) -> str | None:
    """How an image of `size`, and how many times larger it is to be, lie outside the card; None where they do not."""
    card, side = config.card, max(size)
    if card.inputs and not card.inputs[0] <= side <= card.inputs[1]:
        return f"has {side} pixels on its longer side; the network is for {shown(card.inputs)}"
    low, high = card.magnifications or (0, float("inf"))
    if not low * 0.99 <= magnification <= high * 1.01:  # sizes are rounded to whole pixels
        return f"is made {shown_factor(magnification)} times as large; the network is for {shown((low, high))} times"
    return None
