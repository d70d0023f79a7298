"""Every rule on random tensors, computed again with numpy sorts."""

import numpy as np
import pytest
import torch

from sparse.growth import GROWTH_RULES, generator_of_update
from sparse.importance import REDISTRIBUTION_RULES, layer_importance
from sparse.layer import Layer, weight_shape
from sparse.prune import PRUNE_RULES, layer_prune_rates, prune_counts
from sparse.selection import select_largest

SIZES = ((8, 27), (16, 72), (4, 30))


@pytest.fixture(params=range(3))
def layers(request):
    generator = torch.Generator().manual_seed(request.param)

    def one(neurons, fan_in):
        def random():
            return torch.randn(neurons * fan_in, generator=generator)

        mask = torch.rand(neurons * fan_in, generator=generator) < 0.4
        return Layer(random() * mask, mask, neurons, random(), random().square(), random())

    return [one(*size) for size in SIZES]


def lowest(scores, candidates, count):
    """Mark the `count` candidates of the lowest score by a stable sort."""
    scores = np.where(candidates, scores.astype(np.float64), np.inf)
    marked = np.zeros(len(scores), bool)
    marked[np.argsort(scores, kind="stable")[:count]] = True
    return marked


def check(masks, expected):
    for mask, marked in zip(masks, expected, strict=True):
        assert mask.dtype == torch.bool
        np.testing.assert_array_equal(mask.numpy(), marked)


PRUNE_SCORES = {
    "magnitude": lambda layer: layer.weight.abs().numpy(),
    "magnitude_variance": lambda layer: layer.weight.abs().numpy() / np.sqrt(layer.second_moment.numpy()),
}


@pytest.mark.parametrize("name", PRUNE_SCORES)
def test_prune_smallest_of_each_layer(name, layers):
    counts = [10, 0, 7]
    expected = [
        lowest(PRUNE_SCORES[name](layer), layer.mask.numpy(), n) for layer, n in zip(layers, counts, strict=True)
    ]
    check(PRUNE_RULES[name](layers, counts), expected)


def test_prune_global_magnitude(layers):
    expected = lowest(
        np.concatenate([layer.weight.abs().numpy() for layer in layers]),
        np.concatenate([layer.mask.numpy() for layer in layers]),
        60,
    )
    pruned = PRUNE_RULES["global_magnitude"](layers, [10, 20, 30])
    check([torch.cat(pruned)], [expected])
    assert [len(mask) for mask in pruned] == [len(layer.mask) for layer in layers]


def test_prune_set_takes_the_same_fraction_of_each_sign(layers):
    """Mocanu et al. 2018: remove a fraction of the smallest positive and of the largest negative weights."""
    counts = [int(layer.mask.sum()) // 3 for layer in layers]
    for layer, count, pruned in zip(layers, counts, PRUNE_RULES["SET"](layers, counts), strict=True):
        weight = layer.weight.numpy()
        gone, positive, negative = pruned.numpy(), weight > 0, weight < 0
        assert gone.sum() == count
        assert abs((gone & positive).sum() - count * positive.sum() / (positive | negative).sum()) < 1
        assert weight[gone & positive].max() < weight[~gone & positive].min()
        assert weight[gone & negative].min() > weight[~gone & negative].max()


def test_prune_takes_weights_of_zero_first():
    weight = torch.tensor([0.0, 0.5, 0.0, -0.1, 0.2])
    layer = Layer(weight, torch.ones(5, dtype=torch.bool), second_moment=torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))
    for name in PRUNE_RULES:
        assert PRUNE_RULES[name]([layer], [2])[0].tolist() == [True, False, True, False, False], name


GROWTH_SCORES = {"momentum": lambda layer: layer.momentum, "gradient": lambda layer: layer.gradient}


@pytest.mark.parametrize("name", GROWTH_SCORES)
def test_growth_largest_of_each_layer(name, layers):
    counts = [30, 0, int((~layers[2].mask).sum())]
    expected = [
        lowest(-GROWTH_SCORES[name](layer).abs().numpy(), ~layer.mask.numpy(), n)
        for layer, n in zip(layers, counts, strict=True)
    ]
    check(GROWTH_RULES[name](layers, counts, None), expected)


def test_growth_global_momentum(layers):
    expected = lowest(
        -np.concatenate([layer.momentum.abs().numpy() for layer in layers]),
        ~np.concatenate([layer.mask.numpy() for layer in layers]),
        123,
    )
    check([torch.cat(GROWTH_RULES["global_momentum"](layers, [100, 23, 0], None))], [expected])


def test_growth_by_neuron(layers):
    counts = [40, 100, 3]
    for layer, count, grown in zip(layers, counts, GROWTH_RULES["momentum_neuron"](layers, counts, None), strict=True):
        m = layer.momentum.abs().view(layer.neurons, -1).double()
        quota = count * m.mean(1) / m.mean(1).sum()
        grown, inactive = grown.view(layer.neurons, -1), ~layer.mask.view(layer.neurons, -1)
        assert grown.sum() == count
        assert (quota + 1 < inactive.sum(1)).all()  # so that no neuron is full, and each gets its quota
        assert (grown.sum(1) - quota).abs().max() < 1
        for neuron in range(layer.neurons):
            expected = lowest(-m[neuron].numpy(), inactive[neuron].numpy(), int(grown[neuron].sum()))
            np.testing.assert_array_equal(grown[neuron].numpy(), expected)


def test_growth_by_neuron_overflows_into_the_others():
    mask = torch.tensor([[True, True, True, False], [False] * 4, [False] * 4])
    layer = Layer(torch.zeros(12), mask.flatten(), 3, momentum=torch.tensor([9.0] * 4 + [2.0] * 4 + [1.0] * 4))
    grown = GROWTH_RULES["momentum_neuron"]([layer], [7], None)[0].view(3, 4)
    assert grown.sum(1).tolist() == [1, 4, 2]


def test_random_growth_is_uniform_and_seeded(layers):
    layer = layers[1]
    inactive = ~layer.mask

    def grow(update, count=100):
        return GROWTH_RULES["random"]([layer], [count], generator_of_update(7, update, torch.device("cpu")))[0]

    assert torch.equal(grow(0), grow(0))
    assert not torch.equal(grow(0), grow(1))
    often = torch.stack([grow(update) for update in range(400)]).sum(0)
    assert often[~inactive].sum() == 0
    expected = 400 * 100 / int(inactive.sum())
    assert (often[inactive] - expected).abs().max() < 6 * expected**0.5


def test_importance(layers):
    active = [layer.mask.numpy() for layer in layers]
    raw = {
        "momentum": [layer.momentum.abs().numpy()[on].mean() for layer, on in zip(layers, active, strict=True)],
        "magnitude": [layer.weight.abs().numpy()[on].mean() for layer, on in zip(layers, active, strict=True)],
        "nonzero": [np.count_nonzero(layer.weight.numpy()) for layer in layers],
        "variance": [np.sqrt(layer.second_moment.numpy())[on].mean() for layer, on in zip(layers, active, strict=True)],
        "none": [neurons * fan_in for neurons, fan_in in SIZES],
    }
    assert raw.keys() == REDISTRIBUTION_RULES.keys()
    for name, values in raw.items():
        expected = np.array(values, np.float64) / np.sum(values)
        np.testing.assert_allclose(layer_importance(REDISTRIBUTION_RULES[name], layers), expected, rtol=1e-6)


def test_importance_without_momentum_is_by_size(layers):
    still = [layer._replace(momentum=torch.zeros_like(layer.weight)) for layer in layers]
    sizes = np.array([len(layer.weight) for layer in layers])
    np.testing.assert_allclose(layer_importance(REDISTRIBUTION_RULES["momentum"], still), sizes / sizes.sum())


def test_importance_of_a_layer_that_diverged_is_nothing(layers):
    layers[1] = layers[1]._replace(momentum=torch.full_like(layers[1].weight, float("nan")))
    importance = layer_importance(REDISTRIBUTION_RULES["momentum"], layers)
    assert importance[1] == 0
    assert sum(importance) == pytest.approx(1)


def test_nearly_full_and_important_layers_are_spared():
    rates = layer_prune_rates(0.5, importance=[0.6, 0.3, 0.1], active=[90, 90, 90], sizes=[100, 100, 100])
    assert rates == [0.1, 0.5, 0.5]
    assert layer_prune_rates(0.5, [0.6, 0.4], [80, 79], [100, 100]) == [0.5, 0.5]  # 20 % inactive is not nearly full
    assert prune_counts([0.5, 0.1, 0.0, 1.0], [5, 11, 3, 7]) == [3, 2, 0, 7]


def test_ties_go_to_the_lowest_index():
    scores = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0, float("nan")])
    candidates = torch.tensor([True, False, False, True, True, True])
    assert select_largest(scores, candidates, 2).tolist() == [True, False, False, True, False, False]
    assert select_largest(scores, candidates, 4).tolist() == candidates.tolist()
    assert not select_largest(scores, candidates, 0).any()
    rows = select_largest(scores.expand(3, -1), candidates.expand(3, -1), torch.tensor([0, 2, 3]))
    assert rows.tolist()[0] == [False] * 6
    assert rows.tolist()[1] == [True, False, False, True, False, False]
    assert rows.tolist()[2] == [True, False, False, True, True, False]


def test_neurons_of_a_modulated_convolution():
    assert weight_shape(torch.empty(1, 12, 7, 3, 3)) == (12, 7, 3, 3)
    assert weight_shape(torch.empty(1, 7, 3, 3)) == (1, 7, 3, 3)
