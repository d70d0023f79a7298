"""A part of a resampled image is what torch makes of the whole."""

import pytest
import torch

from model.resampling import resample
from model.tiling.resampling import resample_window

SIZES = [((13, 17), (52, 68)), ((52, 68), (13, 17)), ((31, 47), (100, 90)), ((100, 90), (31, 47)), ((20, 20), (20, 20))]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_whole(source, target):
    image = torch.rand(2, 3, *source, generator=torch.Generator().manual_seed(0))
    everything = [tuple(slice(0, n) for n in size) for size in (source, target)]
    assert torch.allclose(resample_window(image, *everything, (source, target)), resample(image, target), atol=1e-5)


@pytest.mark.parametrize(("source", "target"), [((60, 50), (240, 200)), ((240, 200), (60, 50)), ((60, 50), (131, 177))])
def test_a_part(source, target):
    """Of the source, only what a cubic kernel reaches is given."""
    image = torch.rand(1, 3, *source, generator=torch.Generator().manual_seed(0))
    wanted = slice(target[0] // 3, target[0] // 2), slice(0, target[1] // 2)
    known = []
    for part, n, m in zip(wanted, source, target, strict=True):
        reach = 2 * max(n / m, 1) + 1
        known.append(slice(max(int(part.start * n / m - reach), 0), min(int(part.stop * n / m + reach) + 1, n)))
    part = resample_window(image[:, :, known[0], known[1]], tuple(known), wanted, (source, target))
    assert torch.allclose(part, resample(image, target)[:, :, wanted[0], wanted[1]], atol=1e-5)
