"""How much an update asks of the device: on a GPU it waits for the host, which launches every operation."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparse import Masker, selection

SIZES = ((8, 8), (16, 8), (16, 16))


class Count(TorchDispatchMode):
    """Counts the operations, views among them."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def make_masker(monkeypatch):
    """make_masker(n): of a network of 3 · n layers that has had one step; thresholds are found as on a GPU."""
    monkeypatch.setattr(selection, "_kth_largest", selection._kth_by_sorting)

    def build(n, **rules):
        torch.manual_seed(0)
        network = nn.ModuleList(nn.Linear(*size, bias=False) for size in SIZES * n)
        optimizer = torch.optim.Adam(network.parameters(), foreach=True)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        return Masker(network, optimizer, **rules)

    return build


RULES = [
    {},
    {"prune": "magnitude_variance", "growth": "gradient", "redistribution": "variance"},
    {"growth": "momentum_neuron", "redistribution": "magnitude"},
    {"prune": "global_magnitude", "growth": "global_momentum", "redistribution": "nonzero"},
    {"prune": "SET", "growth": "random", "redistribution": "none"},
]


@pytest.mark.parametrize("rules", RULES)
def test_operations_per_layer(rules, make_masker):
    masker = make_masker(20, **rules)
    with Count() as count:
        masker.update()
    assert count.operations <= 20 * len(masker.masks)


@pytest.mark.parametrize("rules", RULES)
def test_round_trips_to_the_host_are_a_few_whatever_the_number_of_layers(rules, make_masker, monkeypatch):
    trips = []

    def counted(read):
        def read_and_count(tensor):
            trips.append(read)
            return read(tensor)

        return read_and_count

    for name in ("tolist", "item", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    for n in (1, 20):
        masker = make_masker(n, **rules)
        trips.clear()
        masker.update()
        assert len(trips) <= 5
