"""A small network with layers of very different sizes, and the recorded updates of the published code."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "adam_foreach": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, foreach=True),
    "adam_fused": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=0.01),
}


class SmallNetwork(nn.Module):
    """The recorded network: two convolutions, two linear layers, 1,992 prunable weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc1 = nn.Linear(16, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x):  # (B, 3, h, w) -> (B, 10)
        x = self.norm(self.conv1(x)).relu()
        x = self.conv2(x).relu().mean((2, 3))
        return self.fc2(self.fc1(x).relu())


def train_step(network, optimizer, masker=None, seed=0):
    """Take one optimiser step on a random batch of this seed, and then the masker's."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(4, 3, 7, 7, generator=generator), torch.randn(4, 10, generator=generator)
    device = next(network.parameters()).device
    optimizer.zero_grad()
    (network(x.to(device)) - y.to(device)).square().mean().backward()
    optimizer.step()
    return masker.step() if masker else None


@pytest.fixture
def make():
    """make(optimizer="adam", seed=0, device="cpu") -> (network, optimizer)."""

    def build(optimizer="adam", seed=0, device="cpu"):
        torch.manual_seed(seed)
        network = SmallNetwork().to(device)
        return network, OPTIMIZERS[optimizer](network.parameters())

    return build


@pytest.fixture
def train():
    return train_step


class GoldenCase:
    """One update of the published code: what it saw, and what it did."""

    def __init__(self, record, tensors):
        self.record = record
        self.update = record["update"]
        self.names = list(self.update["removed"])
        prefix = record["case"] + "/"
        self.tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    def all(self, kind):
        """The tensors of a kind ("before.weight", "pruned.mask", …) by layer name."""
        return {name: self.tensors[f"{kind}.{name}"] for name in self.names}

    def masks(self, kind):
        return {name: mask.bool() for name, mask in self.all(f"{kind}.mask").items()}

    def restore(self):
        """The network and its optimiser, with its moments, as they stood just before the update."""
        network = SmallNetwork()
        optimizer = OPTIMIZERS[self.record["optimizer"]](network.parameters())
        for name in self.names:
            parameter = network.get_parameter(name)
            parameter.data.copy_(self.tensors[f"before.weight.{name}"])
            moments = ("momentum_buffer",) if self.record["optimizer"] == "sgd" else ("exp_avg", "exp_avg_sq")
            optimizer.state[parameter] = {m: self.tensors[f"before.{m}.{name}"].clone() for m in moments}
        return network, optimizer


@pytest.fixture(params="abcdefg")
def golden_case(request, golden):
    records = json.loads((golden / "sparse_momentum.json").read_text())
    record = next(record for record in records if record["case"] == request.param)
    return GoldenCase(record, load_file(golden / "sparse_momentum.safetensors"))
