"""The rules against one update of the published code, in seven settings."""

import pytest
import torch

from sparse import Masker
from sparse.growth import GROWTH_RULES
from sparse.layer import fields_read
from sparse.optimizer_state import read_layers
from sparse.prune import PRUNE_RULES, layer_prune_rates, prune_counts
from sparse.schedule import cosine


@pytest.fixture
def masker(golden_case):
    network, optimizer = golden_case.restore()
    masks = golden_case.masks("init")
    density = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    rules = {key: golden_case.record[key] for key in ("prune", "growth", "redistribution")}
    return Masker(network, optimizer, density, **rules, state={"masks": masks, "steps": 5, "updates": 0, "seed": 0})


def layers_of(masker, rule):
    return read_layers(masker.parameters, masker.masks, masker.optimizer, fields_read([rule]))


def test_scheduled_rate(golden_case):
    rate = cosine(golden_case.record["initial_prune_rate"], 5 / 15)
    assert rate == pytest.approx(golden_case.update["prune_rate"], rel=1e-15)


def test_importance_and_numbers_pruned(golden_case, masker):
    report = masker.update(golden_case.update["prune_rate"])
    assert report.importance == pytest.approx(golden_case.update["importance"], rel=1e-6)
    assert report.pruned == golden_case.update["removed"]
    assert sum(report.regrown.values()) == sum(report.pruned.values())
    assert masker.active == masker.budget


def test_layer_prune_rates(golden_case):
    masks = golden_case.masks("init").values()
    active, sizes = [int(mask.sum()) for mask in masks], [mask.numel() for mask in masks]
    importance = golden_case.update["importance"].values()
    rates = layer_prune_rates(golden_case.update["prune_rate"], importance, active, sizes)
    assert rates == list(golden_case.update["layer_prune_rate"].values())
    assert prune_counts(rates, active) == list(golden_case.update["removed"].values())


def test_pruned_masks(golden_case, masker):
    rule = PRUNE_RULES[golden_case.record["prune"]]
    pruned = rule(layers_of(masker, rule), list(golden_case.update["removed"].values()))
    for (name, mask), gone in zip(masker.masks.items(), pruned, strict=True):
        assert torch.equal(mask & ~gone.view(mask.shape), golden_case.masks("pruned")[name]), name


def test_growth_given_the_published_count(golden_case, masker):
    for name, mask in golden_case.masks("pruned").items():
        masker.masks[name].copy_(mask)
    rule = GROWTH_RULES[golden_case.record["growth"]]
    grown = rule(layers_of(masker, rule), list(golden_case.update["regrowth"].values()), None)
    for (name, mask), new in zip(masker.masks.items(), grown, strict=True):
        after = mask | new.view(mask.shape)
        assert torch.equal(after, golden_case.masks("after")[name]), name
        weight = golden_case.tensors[f"before.weight.{name}"]
        assert torch.equal(weight * after, golden_case.tensors[f"after.weight.{name}"]), name
