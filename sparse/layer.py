"""What a rule sees of one prunable weight."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sparse.rows import by_rows

NOT_READ: Any = None  # in place of a tensor that no rule reads


class Layer(NamedTuple):
    """One prunable weight and what its optimiser knows of it, flattened to (N,) in the weight's logical order.

    The values are float32, the mask is bool (True where a weight is active). What no rule asked for is NOT_READ.
    A rule for one layer is given several of equal size at once, as rows: its tensors are then (R, N).
    """

    weight: Tensor
    mask: Tensor
    neurons: int = 1  # outputs, the slowest index: N = neurons · fan-in
    momentum: Tensor = NOT_READ
    second_moment: Tensor = NOT_READ
    gradient: Tensor = NOT_READ


def weight_shape(weight: Tensor) -> tuple[int, ...]:
    """(n_out, n_in, …kernel): the shape, less the batch dimension of 1 that leads a modulated convolution's."""
    shape = tuple(weight.shape)
    return shape[1:] if len(shape) == 5 and shape[0] == 1 else shape


def reads(*fields: str) -> Callable:
    """Mark a rule with the fields of Layer that it reads beside the mask."""

    def mark(rule: Callable) -> Callable:
        rule.reads = fields  # type: ignore[attr-defined]
        return rule

    return mark


def fields_read(rules: Iterable[Callable]) -> set[str]:
    """Every field of Layer that one of the rules was marked with."""
    return {field for rule in rules for field in getattr(rule, "reads", ())}


def over_layers(rule: Callable[..., Tensor], layers: Sequence[Layer], *arguments: Sequence[Tensor]) -> list[Tensor]:
    """Apply a rule for one layer, (Layer, *arguments) -> Tensor, to every layer, to those of equal size at once.

    arguments: for each further argument of the rule one tensor a layer.
    """
    fields = getattr(rule, "reads", ())

    def of_rows(mask: Tensor, *rows: Tensor) -> Tensor:
        layer = Layer(NOT_READ, mask)._replace(**dict(zip(fields, rows, strict=False)))
        return rule(layer, *rows[len(fields) :])

    masks = [layer.mask for layer in layers]
    return by_rows(of_rows, masks, *([getattr(layer, field) for layer in layers] for field in fields), *arguments)
