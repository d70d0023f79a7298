"""Selections in many layers at once, against a plain sort of each."""

import numpy as np
import pytest
import torch

from sparse import rows, selection
from sparse.layer import Layer, over_layers, reads
from sparse.rows import by_rows
from sparse.selection import count_true, per_layer, select_largest

SIZES = (40, 1, 40, 7, 40, 64, 7, 40, 256, 1, 64)


@pytest.fixture(params=["_kth_by_selecting", "_kth_by_sorting"])
def every_device(request, monkeypatch):
    """The way of the CPU and that of GPUs."""
    monkeypatch.setattr(selection, "_kth_largest", getattr(selection, request.param))


@pytest.fixture(params=[1, 80, 10**6], ids="STACKED={}".format)
def any_stacks(request, monkeypatch):
    """Every layer alone; two of 40 in a stack; all of a size together."""
    monkeypatch.setattr(rows, "STACKED", request.param)


def sorted_selection(scores, candidates, count):
    """Mark the candidates of the largest score by a stable sort: ties to the lowest index, NaN as 0."""
    scores, candidates = scores.double().nan_to_num(nan=0.0, posinf=np.inf, neginf=-np.inf), candidates.nonzero()[:, 0]
    marked = torch.zeros(len(scores), dtype=torch.bool)
    marked[candidates[(-scores[candidates]).sort(stable=True).indices[:count]]] = True
    return marked


SCORES = {
    "all different": lambda n, generator: torch.randn(n, generator=generator),
    "many ties": lambda n, generator: torch.randint(-2, 3, (n,), generator=generator).float(),
    "zeros": lambda n, generator: torch.zeros(n),
    "zeros of both signs": lambda n, generator: torch.randn(n, generator=generator).sign() * 0.0,
    "not finite": lambda n, generator: torch.tensor([0.0, 1.0, torch.nan, torch.inf, -torch.inf])[
        torch.randint(5, (n,), generator=generator)
    ],
}
COUNTS = {
    "none": lambda free, generator: 0,
    "all": lambda free, generator: free,
    "some": lambda free, generator: int(torch.randint(free + 1, (), generator=generator)),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", SCORES)
def test_selection_in_layers_of_equal_and_of_different_sizes(kind, count, every_device, any_stacks):
    generator = torch.Generator().manual_seed(0)
    for density in (0.0, 0.15, 0.8, 1.0):
        scores = [SCORES[kind](size, generator) for size in SIZES]
        masks = [torch.rand(size, generator=generator) < density for size in SIZES]
        counts = [COUNTS[count](int(mask.sum()), generator) for mask in masks]
        rule = per_layer(reads("weight")(lambda layer, counts: select_largest(layer.weight, layer.mask, counts)))
        chosen = rule([Layer(score, mask) for score, mask in zip(scores, masks, strict=True)], counts)
        assert count_true(chosen) == counts
        for marked, *of_layer in zip(chosen, scores, masks, counts, strict=True):
            assert marked.dtype == torch.bool
            assert torch.equal(marked, sorted_selection(*of_layer))


def test_selection_in_rows_of_rows(every_device):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(5, (3, 4, 30), generator=generator).float()
    candidates = torch.rand(3, 4, 30, generator=generator) < 0.7
    counts = torch.randint(12, (3, 4), generator=generator)
    chosen = select_largest(scores, candidates, counts)
    for index in np.ndindex(3, 4):
        assert torch.equal(chosen[index], sorted_selection(scores[index], candidates[index], int(counts[index])))
    assert (select_largest(scores, candidates, 5).sum(-1) == 5).all()


def test_layers_of_equal_shape_are_stacked_and_come_back_in_order(any_stacks):
    seen = []

    def scale(tensor, factor):
        seen.append(tuple(tensor.shape))
        return tensor * factor.view(-1, *[1] * (tensor.ndim - 1))

    shapes = [(40,), (5, 8), (40,), (40,), (100,)]
    tensors = [torch.randn(shape) for shape in shapes]
    scaled = by_rows(scale, tensors, torch.arange(5).unbind())
    for i, (tensor, result) in enumerate(zip(tensors, scaled, strict=True)):
        assert torch.equal(result, tensor * i)
    assert (
        seen
        == {
            1: [(1, *shape) for shape in shapes],
            80: [(2, 40), (1, 5, 8), (1, 40), (1, 100)],
            10**6: [(3, 40), (1, 5, 8), (1, 100)],
        }[rows.STACKED]
    )


def test_a_rule_for_one_layer_sees_what_it_reads():
    @reads("momentum", "gradient")
    def rule(layer, factor):
        assert layer.weight is layer.second_moment is None
        return (layer.mask * (layer.momentum + layer.gradient)).sum(-1) * factor

    def layer(size, value):
        filled = torch.full((size,), float(value))
        return Layer(filled, torch.ones(size, dtype=torch.bool), 1, filled, filled, filled)

    results = over_layers(rule, [layer(2, 1), layer(3, 1), layer(2, 5)], torch.tensor([1, 10, 100]).unbind())
    assert torch.stack(results).tolist() == [4, 60, 2000]
