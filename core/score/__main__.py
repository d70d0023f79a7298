"""Compares the images of any method with the true images.

python -m core.score SR/ HR/                                all measures that need no other network
python -m core.score SR/ HR/ --lr LR/ --crop 4 --y          as in papers on ×4 super-resolution
python -m core.score SR/ HR/ --lpips-weights alexnet-owt-7be5be79.pth --json scores.json
python -m core.score SR/ HR/ --lr LR/ --report scores.html  names the page that shows every image next to the truth

SR/, HR/ and LR/ are folders or single images. Images are matched by their names without endings: 0801.png with
0801x4.png, 0801_out.jpg and 0801x4_SwinIR.png; 0_12_hr.png with 0_12_sr.png; HR_0801.png with SR_0801.png. Each needs a
counterpart of its size. With --lr, LR consistency is measured, and the spectral distance covers only what the LR images
cannot hold. LPIPS, FID and KID need `pip install -r requirements-metrics.txt` and weights on this machine. Nothing is
downloaded.

Exit code: 0, or 2 if nothing was measured, and one line says why.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.command_line import DEVICES, Parser, file_ending_in
from core.errors import one_line_errors
from core.score.pairs import find_pairs
from data.files import require_writable


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    pairs = find_pairs(arguments.sr, arguments.hr, arguments.lr)
    for file in filter(None, (arguments.json, arguments.report)):
        require_writable(file)

    # Here, as torch takes a second to import, for which --help and names that do not fit need not wait.
    from core.device import pick_device
    from core.metrics.perceptual_metrics import load_perceptual_metrics
    from core.report.json_files import write_json
    from core.score.scoring import as_text, score

    weights = arguments.lpips_weights, arguments.fid_weights
    perceptual = load_perceptual_metrics(pick_device(arguments.device), *weights)
    report = score(pairs, perceptual, arguments.crop)
    folders = {name: getattr(arguments, name) for name in ("sr", "hr", "lr")}
    print(as_text(folders | report, arguments.y))
    if arguments.json:
        write_json(folders | report, arguments.json)
        print(f"written to {arguments.json}")
    if arguments.report:
        from core.report.page import write_page
        from core.report.runs import Run

        write_page([Run.of(Path(arguments.sr).name or arguments.sr, folders | report)], arguments.report)
        print(f"written to {arguments.report}")


def parser() -> Parser:
    parser = Parser(prog="python -m core.score", description=__doc__)
    add = parser.add_argument
    add("sr", metavar="SR", help="the images to measure: a folder, or a file")
    add("hr", metavar="HR", help="the true images")
    add("--lr", metavar="LR", help="the small images from which SR was made")
    add("--crop", type=pixels, default=0, metavar="N", help="leave out N pixels along each border for PSNR and SSIM")
    add("--y", action="store_true", help="also show PSNR and SSIM of the luminance Y, and the worst images by it")
    help = "write everything, including the numbers of each image, as FILE.json"
    add("--json", type=file_ending_in(".json"), metavar="FILE", help=help)
    page = parser.add_mutually_exclusive_group()
    help = "the page that shows every image next to the truth (default: report.html)"
    page.add_argument("--report", type=file_ending_in(".html"), default="report.html", metavar="FILE", help=help)
    page.add_argument("--no-report", dest="report", action="store_const", const=None, help="write no page")
    add(
        "--lpips-weights",
        metavar="FILE",
        help="weights of AlexNet, as torchvision saves them (default: the ones that it downloaded)",
    )
    add("--fid-weights", metavar="FILE", help="weights of Inception, as torch-fidelity saves them (default: likewise)")
    add("--device", default="auto", help=f"device of LPIPS and FID: {DEVICES}")
    return parser


def pixels(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no number of pixels")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
