"""What a rule sees of one prunable weight."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Layer(NamedTuple):
    """One prunable weight and what its optimiser knows of it, flattened to (N,) in the weight's logical order.

    The values are float32, the mask is bool (True where a weight is active). What no rule asked for is None.
    """

    weight: Tensor
    mask: Tensor
    neurons: int = 1  # outputs, the slowest index: N = neurons · fan-in
    momentum: Tensor | None = None
    second_moment: Tensor | None = None
    gradient: Tensor | None = None


def weight_shape(weight: Tensor) -> tuple[int, ...]:
    """Return (n_out, n_in, …kernel): the shape, less the batch dimension of 1 that leads a modulated convolution's."""
    shape = tuple(weight.shape)
    return shape[1:] if len(shape) == 5 and shape[0] == 1 else shape


def reads(*fields: str) -> Callable:
    """Mark a rule with the fields of Layer that it reads beside the weight and the mask."""

    def mark(rule: Callable) -> Callable:
        rule.reads = fields
        return rule

    return mark


def fields_read(rules: list[Callable]) -> set[str]:
    """Return every field of Layer that one of the rules was marked with."""
    return {field for rule in rules for field in getattr(rule, "reads", ())}
