"""What the rules need to know from the optimiser: momentum, second moment, gradient. All are read, none is changed."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparse.errors import SparseError, shorten
from sparse.layer import Layer, weight_shape

EPSILON = 1e-8


def check_optimizer(optimizer: Optimizer, parameters: Mapping[str, Tensor], fields: Collection[str]) -> None:
    """Raise SparseError unless the optimiser holds every parameter and keeps what the `fields` of Layer ask for."""
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in group_of]
    if missing:
        raise SparseError(
            f"the optimiser does not hold {len(missing)} prunable parameters ({shorten(missing)}): "
            "give them to it or exclude them"
        )
    kind = type(optimizer).__name__
    for name, parameter in parameters.items():
        group = group_of[id(parameter)]
        if "second_moment" in fields and "betas" not in group:
            raise SparseError(f"{kind} keeps no second moment of {name}: variance rules need Adam or AdamW")
        if "momentum" in fields and "betas" not in group and not group.get("momentum"):
            raise SparseError(
                f"{kind} keeps no momentum of {name}: momentum rules need SGD with momentum above 0, Adam or AdamW"
            )


def has_moments(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> bool:
    """Say whether the optimiser has taken a step, and so has moments, for any of the parameters."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters.values()]
    return any("exp_avg" in state or state.get("momentum_buffer") is not None for state in states)


def momentum(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """Return m: SGD's momentum buffer, or Adam's exp_avg / (sqrt(exp_avg_sq) + 1e-8), without bias correction."""
    state = optimizer.state.get(parameter, {})
    if "exp_avg" in state:
        return state["exp_avg"].float() / (_second_moment_in(state, optimizer).sqrt() + EPSILON)
    return state.get("momentum_buffer")


def second_moment(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """Return Adam's exp_avg_sq."""
    state = optimizer.state.get(parameter, {})
    return _second_moment_in(state, optimizer) if state else None


def gradient(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """Return the gradient that the last backward pass left."""
    return parameter.grad


READERS = {"momentum": momentum, "second_moment": second_moment, "gradient": gradient}


def read_layers(
    parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], optimizer: Optimizer, fields: Collection[str]
) -> list[Layer]:
    """Return every parameter as the Layer that rules with these `fields` read; what is absent reads as zeros."""
    if "gradient" in fields and all(parameter.grad is None for parameter in parameters.values()):
        raise SparseError('growth="gradient" needs gradients: step the masker before zero_grad(), after backward()')
    return [
        Layer(
            _flatten(parameter),
            masks[name].flatten(),
            weight_shape(parameter)[0],
            **{field: _read(field, optimizer, parameter) for field in fields},
        )
        for name, parameter in parameters.items()
    ]


def _read(field: str, optimizer: Optimizer, parameter: Tensor) -> Tensor:
    tensor = READERS[field](optimizer, parameter)
    return _flatten(torch.zeros_like(parameter) if tensor is None else tensor)


def _flatten(tensor: Tensor) -> Tensor:
    return tensor.detach().float().flatten()


def _second_moment_in(state: Mapping[str, Tensor], optimizer: Optimizer) -> Tensor:
    if "exp_avg_sq" not in state:
        raise SparseError(f"{type(optimizer).__name__} keeps no exp_avg_sq: use Adam, AdamW or SGD")
    return state["exp_avg_sq"].float()
