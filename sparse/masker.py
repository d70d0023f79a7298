"""Sparse momentum: training under a fixed budget of active weights (Dettmers & Zettlemoyer 2019, arXiv 1907.04840)."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse.allocation import INITIAL_DENSITIES, initial_counts, share_regrowth
from sparse.errors import SparseError, check_count, check_fraction, check_name, shorten
from sparse.growth import GROWTH_RULES, generator_of_update
from sparse.importance import REDISTRIBUTION_RULES, layer_importance
from sparse.layer import fields_read, weight_shape
from sparse.optimizer_state import check_optimizer, has_moments, read_layers
from sparse.prunable import prunable_parameters
from sparse.prune import PRUNE_RULES, layer_prune_rates, prune_counts
from sparse.schedule import PRUNE_RATE_SCHEDULES, UpdateSchedule
from sparse.selection import count_true, select_largest, select_random

T = TypeVar("T")


def _choose_random(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return select_random(torch.ones_like(weight, dtype=torch.bool), count, generator)


def _choose_largest(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return select_largest(weight.abs(), torch.ones_like(weight, dtype=torch.bool), count)


FIRST_MASKS = {"random": _choose_random, "largest": _choose_largest}


class UpdateReport(NamedTuple):
    """What one update did; every dict goes from parameter name to a value of that layer."""

    step: int  # of the run
    prune_rate: float  # as asked for; a nearly full layer may have had a smaller one
    importance: dict[str, float]  # sums to 1
    pruned: dict[str, int]
    regrown: dict[str, int]


class Masker:
    """Keeps the prunable weights of a network at a budget of active ones, and moves the budget to where it helps.

    Call step() after every optimiser step: it holds inactive weights at 0, and every `update_every` steps it prunes
    and regrows. Gradients and the optimiser's moments stay dense. After construction and after every update exactly
    round(density · prunable) weights are active.

    Updates are scheduled by the steps of the run, from `start` on, until which it was dense. A run that counts them
    tells step() their number, so that there is one counter; else the masker counts.

    Give it the bare network (not one wrapped for data-parallel training), already on its device and in its memory
    format. Arguments that do not fit raise SparseError.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,  # holds all prunable parameters: Adam, AdamW or SGD
        density: float = 0.15,  # active share of the prunable weights, in (0, 1]; 1 changes nothing
        prune: str = "magnitude",  # magnitude | magnitude_variance | SET | global_magnitude
        growth: str = "momentum",  # momentum | gradient | random | momentum_neuron | global_momentum
        redistribution: str = "momentum",  # momentum | magnitude | nonzero | variance | none
        update_every: int = 1000,  # optimiser steps between updates
        prune_rate: float = 0.5,  # share of the active weights that an update prunes at first, in [0, 1]
        prune_rate_schedule: str = "cosine",  # cosine | linear | constant, from start to update_until
        start: int = 0,  # the step of the run after which its sparse stage begins
        update_until: int | None = None,  # the last step that may update; None: no last one, and the rate stays
        init: str = "constant",  # constant | erdos_renyi | erdos_renyi_kernel
        keep: str = "random",  # which weights start active: random | largest (of a trained network)
        exclude: Sequence[str] = (),  # patterns of parameter names that stay dense
        min_elements: int = 0,  # smaller tensors stay dense
        seed: int = 0,  # of the first masks and of random growth
        synchronize: Callable[[list[Tensor]], None] | None = None,  # makes masks (uint8, in place) equal on all ranks
        state: Mapping[str, Any] | None = None,  # a state_dict() to continue from: no first masks are drawn
    ):
        check_fraction("density", density, zero_allowed=False)
        check_fraction("prune_rate", prune_rate)
        check_count("update_every", update_every, least=1)
        check_count("start", start, least=0)
        check_count("update_until", start + 1 if update_until is None else update_until, least=start + 1)
        check_count("seed", seed, least=0)
        check_name("prune", prune, PRUNE_RULES)
        check_name("growth", growth, GROWTH_RULES)
        check_name("redistribution", redistribution, REDISTRIBUTION_RULES)
        check_name("prune_rate_schedule", prune_rate_schedule, PRUNE_RATE_SCHEDULES)
        check_name("init", init, INITIAL_DENSITIES)
        check_name("keep", keep, FIRST_MASKS)

        self.optimizer = optimizer
        self.schedule = UpdateSchedule(update_every, start, update_until, prune_rate, prune_rate_schedule)
        self.seed, self.steps, self.updates = seed, start, 0
        self.parameters = prunable_parameters(module, exclude, min_elements)
        self._synchronize = synchronize
        self._rules = PRUNE_RULES[prune], GROWTH_RULES[growth], REDISTRIBUTION_RULES[redistribution]
        check_optimizer(optimizer, self.parameters, fields_read(self._rules))

        self._sizes = [parameter.numel() for parameter in self.parameters.values()]
        self.prunable = sum(self._sizes)
        self.budget = round(density * self.prunable)
        if self.budget == 0:
            raise SparseError(f"density={density} leaves none of the {self.prunable} prunable weights active")
        # The masks again, in the parameters' dtype and memory layout: applying them is then one fused kernel for all.
        self._multipliers = [torch.empty_like(parameter, requires_grad=False) for parameter in self.parameters.values()]
        self._masks: list[Tensor] = []
        self._active: list[int] = []
        self._versions: list[int] = []
        if state is None:
            self._adopt(self._initial_masks(init, FIRST_MASKS[keep]))
        else:
            self.load_state_dict(state)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The present masks by parameter name: bool, True where a weight is active, of the parameter's shape.

        A change of one in place takes effect at the next step() or apply(), and the next update regrows up to the
        budget. An update makes new masks, so that those of before can be kept.
        """
        return MappingProxyType(self._by_name(self._masks))

    @property
    def active(self) -> int:
        """The number of active weights."""
        return sum(self._count_active())

    @property
    def density(self) -> float:
        """Active over prunable weights."""
        return self.active / self.prunable

    def active_by_layer(self) -> dict[str, int]:
        """The number of active weights of each layer."""
        return self._by_name(self._count_active())

    def densities(self) -> dict[str, float]:
        """The density of each layer."""
        return self._by_name([active / size for active, size in zip(self._count_active(), self._sizes, strict=True)])

    @property
    def prune_rate(self) -> float:
        """The prune rate scheduled for the current step."""
        return self.schedule.prune_rate_at(self.steps)

    def step(self, number: int | None = None) -> UpdateReport | None:
        """Hold inactive weights at 0 after an optimiser step; prune and regrow when it is time, and then say what.

        number: of the optimiser step in the run, from 1; None: one more than that of the step before.
        """
        self.steps = self.steps + 1 if number is None else number
        self.apply()
        return self.update() if self.schedule.is_due(self.steps) else None

    @torch.no_grad()
    def apply(self) -> None:
        """Set inactive weights to 0."""
        if self.active < self.prunable:
            torch._foreach_mul_(list(self.parameters.values()), self._multipliers)

    @torch.no_grad()
    def apply_to(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the inactive weights of a copy of the network, such as its moving average, to 0 in place.

        tensors: every masked parameter by its name; other names are left alone.
        """
        if missing := [name for name in self.parameters if name not in tensors]:
            raise SparseError(f"there are masks, but no tensors, of these names: {shorten(missing)}")
        self._follow_masks()
        masked = [tensors[name] for name in self.parameters]
        multipliers = [of_one.to(tensor.device) for of_one, tensor in zip(self._multipliers, masked, strict=True)]
        torch._foreach_mul_(masked, multipliers)

    @torch.no_grad()
    def update(self, prune_rate: float | None = None) -> UpdateReport:
        """Prune a share of the active weights, and regrow up to the budget, where the rules say.

        prune_rate: in [0, 1]; None takes the scheduled one. New weights start at 0; a weight that is pruned and comes
        back at once was never away. Before the optimiser's first step there are no moments to go by: pruning is then
        by magnitude, and growth random and by layer size.
        """
        rate = self.prune_rate if prune_rate is None else check_fraction("prune_rate", prune_rate)
        if self.budget == self.prunable:
            rate = 0.0
        active = self._count_active()
        prune, grow, redistribute = rules = self._applicable_rules()
        layers = read_layers(self.parameters, self.masks, self.optimizer, fields_read(rules))

        importance = layer_importance(redistribute, layers)
        rates = layer_prune_rates(rate, importance, active, self._sizes)
        pruned = prune(layers, prune_counts(rates, active))

        # What is pruned was active, so that an exclusive or switches it off.
        survivors = [layer._replace(mask=layer.mask ^ gone) for layer, gone in zip(layers, pruned, strict=True)]
        n_pruned = count_true(pruned)
        n_left = [n - gone for n, gone in zip(active, n_pruned, strict=True)]
        inactive = [size - n for size, n in zip(self._sizes, n_left, strict=True)]
        generator = generator_of_update(self.seed, self.updates, layers[0].mask.device)
        n_missing = max(self.budget - sum(n_left), 0)
        grown = grow(survivors, share_regrowth(n_missing, importance, inactive), generator)

        self._adopt([layer.mask | new for layer, new in zip(survivors, grown, strict=True)])
        self.updates += 1
        n_grown = [n - left for n, left in zip(self._count_active(), n_left, strict=True)]
        return UpdateReport(
            self.steps, rate, self._by_name(importance), self._by_name(n_pruned), self._by_name(n_grown)
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to continue: the masks (bool), the counters and the seed."""
        return {"masks": dict(self.masks), "steps": self.steps, "updates": self.updates, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state_dict() and apply its masks; one that does not fit is refused, and nothing changes.

        The masker's first masks have thinned the weights already: load weights after making the masker, or give the
        state to the constructor.
        """
        if missing := {"masks", "steps", "updates", "seed"} - set(state):
            raise SparseError(f"the masker's state lacks {', '.join(sorted(missing))}")
        self._check_masks(state["masks"])
        self.steps, self.updates, self.seed = int(state["steps"]), int(state["updates"]), int(state["seed"])
        self._adopt([state["masks"][name].to(p.device, copy=True) for name, p in self.parameters.items()])

    def _by_name(self, values: Sequence[T]) -> dict[str, T]:
        """One value a layer by parameter name."""
        return dict(zip(self.parameters, values, strict=True))

    def _check_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Raise SparseError, with the names, unless the masks are those of this network at this density."""
        misfits = [f"{name} is missing" for name in self.parameters if name not in masks]
        for name, mask in masks.items():
            if name not in self.parameters:
                misfits.append(f"{name} is not prunable here")
            elif mask.dtype != torch.bool or mask.shape != self.parameters[name].shape:
                wanted = tuple(self.parameters[name].shape)
                misfits.append(f"{name} is {mask.dtype} {tuple(mask.shape)}, not torch.bool {wanted}")
        if misfits:
            mend = ""
            if masks.keys() != self.parameters.keys():
                mend = "; continue with the exclude and min_elements that they were made with"
            raise SparseError(f"the masks do not fit this network: {shorten(misfits)}{mend}")
        active = sum(count_true([mask.cpu() for mask in masks.values()]))
        if active != self.budget:
            raise SparseError(
                f"the masks hold {active} active weights of {self.prunable}, but this density asks for {self.budget}: "
                f"continue with density={active / self.prunable:.6g}"
            )

    def _initial_masks(self, init: str, choose: Callable) -> list[Tensor]:
        """Draw masks on the CPU, so that they are the same on every device."""
        shapes = [weight_shape(parameter) for parameter in self.parameters.values()]
        counts = initial_counts(init, shapes, self.budget)
        generator = torch.Generator().manual_seed(self.seed)
        weights = [parameter.detach().cpu().flatten() for parameter in self.parameters.values()]
        drawn = [choose(weight, n, generator) for weight, n in zip(weights, counts, strict=True)]
        return [mask.to(p.device) for mask, p in zip(drawn, self.parameters.values(), strict=True)]

    def _applicable_rules(self) -> tuple[Callable, ...]:
        """The rules asked for; before the first optimiser step, stand-ins for those that read moments."""
        if has_moments(self.optimizer, self.parameters):
            return self._rules
        stand_ins = PRUNE_RULES["magnitude"], GROWTH_RULES["random"], REDISTRIBUTION_RULES["none"]
        return tuple(
            stand_in if fields_read([rule]) & {"momentum", "second_moment"} else rule
            for rule, stand_in in zip(self._rules, stand_ins, strict=True)
        )

    @torch.no_grad()
    def _adopt(self, masks: list[Tensor]) -> None:
        """Take on new masks, made equal on all ranks, and set what they switch off to 0."""
        masks = [mask.view(p.shape) for mask, p in zip(masks, self.parameters.values(), strict=True)]
        if self._synchronize:
            self._synchronize([mask.view(torch.uint8) for mask in masks])
        self._masks, self._versions = masks, []
        self.apply()

    def _count_active(self) -> list[int]:
        """The number of active weights of each layer."""
        self._follow_masks()
        return self._active

    @torch.no_grad()
    def _follow_masks(self) -> None:
        """Derive the multipliers and the counts again where the masks are new or have been changed in place."""
        versions = [mask._version for mask in self._masks]  # torch counts the changes of a tensor in place
        if versions != self._versions:
            torch._foreach_copy_(self._multipliers, self._masks)
            self._active, self._versions = count_true(self._masks), versions
