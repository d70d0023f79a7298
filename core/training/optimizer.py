"""The optimiser, its learning rate, and its moments, which a checkpoint keeps."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.config.sections import OptimizerSection, TrainSection

MOMENTS = {  # what training cannot go on without
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


def build_optimizer(
    parameters: Iterable[Any], options: OptimizerSection, device: torch.device, fused: bool | None = None
) -> Optimizer:
    """`train.optimizer` of a config -> Adam, AdamW or SGD over the parameters, or groups of them.

    Its kernels are fused, by default on a GPU: `core.training.gradients.step_unless` can tell them there to leave out a
    step.
    """
    kind, lr, decay = options.type, options.lr, options.weight_decay
    fused = device.type == "cuda" if fused is None else fused
    if kind == "sgd":
        sgd = torch.optim.SGD(parameters, lr=lr, momentum=options.momentum, weight_decay=decay, fused=fused)
        if fused and options.momentum:  # else a first step that is left out leaves what was in memory
            for parameter in (p for group in sgd.param_groups for p in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return sgd
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return adam(parameters, lr=lr, betas=tuple(options.betas), weight_decay=decay, fused=fused)


def learning_rate(step: int, train: TrainSection) -> float:
    """The learning rate of a step (from 0): linear warm-up, then constant, or a cosine to 0 at the last step."""
    lr = train.optimizer.lr
    if step < train.warmup:
        return lr * (step + 1) / train.warmup
    if train.lr_schedule == "constant":
        return lr
    progress = (step - train.warmup) / max(train.n_iter - train.warmup, 1)
    return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def load_moments(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], moments: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Gives the optimiser what a checkpoint holds of its state: {parameter name: {key: tensor}}."""
    wanted = MOMENTS[type(optimizer)]
    for name, parameter in parameters.items():
        state = moments.get(name, {})
        if wanted <= state.keys():  # else of another optimiser, or never updated: it starts afresh
            optimizer.state[parameter] = {key: _like(state[key], parameter) for key in wanted}


def _like(value: Tensor | float, parameter: nn.Parameter) -> Tensor:
    """A moment as the optimiser makes it: float32, where the parameter is, and laid out in memory as it is."""
    value = torch.as_tensor(value, dtype=torch.float32, device=parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value) if value.dim() else value
