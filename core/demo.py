"""Shows what the demo came to: python -m core.demo demo

Writes demo/compared.png, of demo/unseen.png, demo/result.png and demo/unseen_truth.png: what went in, its bicubic
enlargement, the result and the truth, all of one size; and prints how far from the truth they are.
"""

from collections.abc import Sequence
from pathlib import Path

from core.command_line import Parser
from core.errors import one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m core.demo", description=__doc__)
    parser.add_argument("folder", help="the folder of the demo")
    compare(Path(parser.parse_args(argv).folder))


def compare(folder: Path) -> None:
    """Writes the picture and prints the numbers. Raises DataError where an image is missing."""
    import numpy as np  # here, as --help need not wait for it
    from PIL import Image

    from core.metrics.image_metrics import measure
    from core.report.pictures import labelled
    from data.images import read_rgb, resize, save_png

    low, result, truth = (read_rgb(folder / f"{name}.png") for name in ("unseen", "result", "unseen_truth"))
    images = {
        "input": low.resize(truth.size, Image.Resampling.NEAREST),
        "bicubic": resize(low, truth.size),
        "result": result,
        "truth": truth,
    }
    for name in ("bicubic", "result"):
        numbers = measure(np.asarray(images[name]), np.asarray(truth), np.asarray(low))
        print(
            f"{name}: PSNR {numbers['psnr']:.2f} dB, SSIM {numbers['ssim']:.3f}, sharpness {numbers['sharpness']:.2f}"
        )
    magnified = [
        image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST) for image in images.values()
    ]
    save_png(labelled(magnified, list(images)), folder / "compared.png")


if __name__ == "__main__":
    main()
