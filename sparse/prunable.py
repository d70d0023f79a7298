"""Which parameters of a network are prunable."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from sparse.errors import SparseError, check_count, nearest_name

PRUNABLE_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prunable_parameters(
    module: nn.Module, exclude: Sequence[str] = (), min_elements: int = 0
) -> dict[str, nn.Parameter]:
    """The prunable parameters of a network by name.

    The network knows best: its own `prunable_parameters()` is asked. Without one, it is the weights of all linear and
    convolution layers that are trained. Biases and norms stay dense.

    exclude: patterns ("*.head.*") of names that stay dense.  min_elements: smaller tensors stay dense.
    """
    check_count("min_elements", min_elements, least=0)
    _check_patterns(exclude, [name for name, _ in module.named_parameters()])
    if own := getattr(module, "prunable_parameters", None):
        found = own()
    else:
        owners = {id(m.weight) for m in module.modules() if isinstance(m, PRUNABLE_MODULES)}
        found = {name: p for name, p in module.named_parameters() if id(p) in owners and p.requires_grad}
    chosen = {
        name: parameter
        for name, parameter in found.items()
        if parameter.numel() >= max(1, min_elements) and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not chosen:
        mend = ": exclude fewer, or lower min_elements" if found else ""
        raise SparseError(f"no prunable weight with exclude={list(exclude)}, min_elements={min_elements}{mend}")
    return chosen


def _check_patterns(exclude: Sequence[str], names: list[str]) -> None:
    if isinstance(exclude, str):
        raise SparseError(f"exclude={exclude!r} must be a list of patterns, such as [{exclude!r}]")
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SparseError(f"exclude: {pattern!r} matches no parameter{nearest_name(pattern, names)}")
