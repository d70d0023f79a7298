"""What the rules need to know from the optimiser: momentum, second moment, gradient. All are read, none is changed."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparse.errors import SparseError, shorten
from sparse.layer import NOT_READ, Layer, weight_shape

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


def weight(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parameters themselves."""
    return parameters


def momentum(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """m: SGD's momentum buffer, or Adam's exp_avg / (sqrt(exp_avg_sq) + 1e-8), without bias correction."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    of_adam = iter(_adam_momentum([state for state in states if "exp_avg" in state], optimizer))
    return [next(of_adam) if "exp_avg" in state else state.get("momentum_buffer") for state in states]


def second_moment(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Adam's exp_avg_sq."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    return [_second_moment_in(state, optimizer) if state else None for state in states]


def gradient(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient that the last backward pass left."""
    return [parameter.grad for parameter in parameters]


READERS = {"weight": weight, "momentum": momentum, "second_moment": second_moment, "gradient": gradient}


def read_layers(
    parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], optimizer: Optimizer, fields: Collection[str]
) -> list[Layer]:
    """Every parameter as the Layer that rules with these `fields` read; what is absent reads as zeros."""
    if "gradient" in fields and all(parameter.grad is None for parameter in parameters.values()):
        raise SparseError('growth="gradient" needs gradients: step the masker before zero_grad(), after backward()')
    layers = [Layer(NOT_READ, masks[name].flatten(), weight_shape(p)[0]) for name, p in parameters.items()]
    for field in fields:
        values = _read(field, optimizer, list(parameters.values()))
        layers = [layer._replace(**{field: value}) for layer, value in zip(layers, values, strict=True)]  # type: ignore
    return layers


def _read(field: str, optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    return [
        _flatten(torch.zeros_like(parameter) if tensor is None else tensor)
        for parameter, tensor in zip(parameters, READERS[field](optimizer, parameters), strict=True)
    ]


def _flatten(tensor: Tensor) -> Tensor:
    return tensor.detach().float().flatten()


def _adam_momentum(states: Sequence[Mapping[str, Tensor]], optimizer: Optimizer) -> Sequence[Tensor]:
    if not states:  # a foreach operation refuses an empty list
        return []
    scale = torch._foreach_sqrt([_second_moment_in(state, optimizer) for state in states])
    torch._foreach_add_(scale, EPSILON)
    return torch._foreach_div([state["exp_avg"].float() for state in states], scale)


def _second_moment_in(state: Mapping[str, Tensor], optimizer: Optimizer) -> Tensor:
    if "exp_avg_sq" not in state:
        raise SparseError(f"{type(optimizer).__name__} keeps no exp_avg_sq: use Adam, AdamW or SGD")
    return state["exp_avg_sq"].float()
