"""Moments of an image that comes in parts."""

import torch
from torch.nn import functional as F

from model.tiling.statistics import Correction, Looking, SharedGroupNormSiLU, Statistics, moments_of


def features(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 50


def test_pooled_moments_are_those_of_the_whole():
    whole = features(1, 12, 20, 30)
    left, right = whole[..., :12].contiguous(), whole[..., 8:].contiguous()  # four columns are in both
    everything = slice(None)
    parts = [moments_of(left, [(everything, everything)], 3), moments_of(right, [(everything, slice(4, None))], 3)]
    pooled = parts[0].pooled(parts[1])
    groups = whole.double().unflatten(1, (3, 4))[0]
    assert pooled.pixels == 600
    assert torch.allclose(pooled.mean, groups.mean((1, 2, 3)), rtol=1e-6)
    assert torch.allclose(pooled.variance, groups.var((1, 2, 3), correction=0), rtol=1e-5)


def test_a_correction_leads_from_the_sample_to_the_image():
    sample, image = (moments_of(features(1, 8, 9, n)[..., :n], [(slice(None), slice(None))], 2) for n in (5, 9))
    corrected = sample.corrected(Correction.between(sample, image))
    assert torch.allclose(corrected.mean, image.mean) and torch.allclose(corrected.variance, image.variance)
    flat = sample._replace(variance=torch.zeros(2, dtype=torch.float64))
    assert flat.corrected(Correction.between(flat, flat)).variance.isfinite().all()


def test_norm_of_the_batch_then_of_what_is_known():
    """A batch that is the whole image, in two halves, is normalised as the image; so is a half by itself then."""
    norm = SharedGroupNormSiLU(2, 8)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    norm.number, norm.statistics = 0, Statistics()
    whole = features(1, 8, 6, 10)
    expected = F.silu(F.group_norm(whole, 2, norm.weight, norm.bias))
    halves = torch.cat(whole.split(5, dim=3))
    norm.cores = lambda: [(slice(None), slice(None))] * 2
    with torch.no_grad():
        assert torch.allclose(torch.cat(norm(halves).split(1), dim=3), expected, atol=1e-5)
        norm.statistics.looking = Looking.KNOWING
        assert torch.allclose(norm(halves[1:]), expected[..., 5:], atol=1e-5)
