"""The masker in training: an exact budget, masks that hold, state that travels, and refusals in one line."""

import itertools
from itertools import product

import pytest
import torch
from torch import nn

from sparse import Masker, SparseError
from sparse.growth import GROWTH_RULES
from sparse.importance import REDISTRIBUTION_RULES
from sparse.prune import PRUNE_RULES

RULES = list(product(PRUNE_RULES, GROWTH_RULES, REDISTRIBUTION_RULES))
EACH_RULE = RULES[:: len(REDISTRIBUTION_RULES) + 1]  # with some others
SGD_RULES = [rules for rules in RULES if "variance" not in " ".join(rules)]


def count(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def check_budget(masker, density):
    assert masker.active == count(masker.masks) == round(density * masker.prunable)
    for name, mask in masker.masks.items():
        weight = masker.parameters[name]
        assert mask.dtype == torch.bool and mask.shape == weight.shape
        assert (weight[~mask] == 0).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.02, 0.15, 0.9, 1.0])
@pytest.mark.parametrize("prune", PRUNE_RULES)
def test_budget_is_exact_with_every_rule(prune, density, make, train):
    network, optimizer = make()
    train(network, optimizer)
    for _, growth, redistribution in (rules for rules in RULES if rules[0] == prune):
        masker = Masker(
            network, optimizer, density, prune, growth, redistribution, update_every=1, prune_rate_schedule="constant"
        )
        check_budget(masker, density)
        for step, rate in enumerate((0.5, 1.0, 0.03)):
            report = train(network, optimizer, masker, seed=step)
            check_budget(masker, density)
            assert report.regrown.keys() == report.pruned.keys() == masker.masks.keys()
            assert sum(report.regrown.values()) == sum(report.pruned.values())
            masker.update(rate)
            check_budget(masker, density)


class RandomNetwork(nn.Module):
    """Weights of random shapes and wildly different scales, with random moments: layers saturate and empty."""

    def __init__(self, generator):
        super().__init__()
        n = int(torch.randint(1, 12, (), generator=generator))
        shapes = [torch.randint(1, 20, (2 + 2 * (i % 2),), generator=generator).tolist() for i in range(n)]
        scales = 10 ** (3 * torch.randn(n, generator=generator))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(shape, generator=generator) * scale)
            for shape, scale in zip(shapes, scales, strict=True)
        )

    def prunable_parameters(self):
        return dict(self.named_parameters())


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 12))])
def test_budget_is_exact_on_random_networks(seed):
    generator = torch.Generator().manual_seed(seed)
    network = RandomNetwork(generator)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        scale = 10 ** (3 * torch.randn((), generator=generator))
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    optimizer.step()
    for rules in RULES[seed % 3 :: 3]:
        density = float(torch.rand((), generator=generator).clamp(0.05, 0.99))
        init = ("constant", "erdos_renyi", "erdos_renyi_kernel")[seed % 3]
        masker = Masker(network, optimizer, density, *rules, init=init, seed=seed)
        check_budget(masker, density)
        for _ in range(2):
            masker.update(float(torch.rand((), generator=generator)))
            check_budget(masker, density)
            for parameter in network.parameters():
                parameter.data += torch.randn(parameter.shape, generator=generator)
            masker.apply()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adam_foreach", "adam_fused", "sgd"])
def test_masks_hold_after_every_step(optimizer, make, train):
    network, optimizer = make(optimizer)
    masker = Masker(network, optimizer, 0.15, update_every=4)
    bias = network.conv1.bias.clone()
    reports = []
    for step in range(12):
        reports.append(train(network, optimizer, masker, seed=step))
        check_budget(masker, 0.15)
    assert [report is not None for report in reports] == [False, False, False, True] * 3
    assert all(sum(report.pruned.values()) > 50 for report in reports if report)
    assert (network.conv1.bias != bias).all()


def test_moments_stay_dense(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.1)
    train(network, optimizer, masker)
    for name, mask in masker.masks.items():
        parameter = masker.parameters[name]
        first, second = (optimizer.state[parameter][moment][~mask] for moment in ("exp_avg", "exp_avg_sq"))
        gradient = parameter.grad[~mask]
        assert gradient.any()
        torch.testing.assert_close(first, 0.1 * gradient)
        torch.testing.assert_close(second, 0.001 * gradient.square(), rtol=1e-4, atol=1e-12)


def test_new_weights_start_at_zero_and_others_stay(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.3)
    train(network, optimizer, masker)
    before = {name: (masker.masks[name], weight.detach().clone()) for name, weight in masker.parameters.items()}
    masker.update()
    for name, (mask, weight) in before.items():
        new = masker.masks[name] & ~mask
        assert new.any(), name
        assert (masker.parameters[name][new] == 0).all()
        kept = masker.masks[name] & mask
        assert torch.equal(masker.parameters[name][kept], weight[kept])


def test_a_weight_pruned_a_moment_ago_may_come_back(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.9)
    train(network, optimizer, masker)
    before = dict(masker.masks)
    report = masker.update(1.0)
    active_before_and_after = sum(int((masker.masks[name] & mask).sum()) for name, mask in before.items())
    assert active_before_and_after > masker.budget - sum(report.pruned.values())


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_rate_zero_changes_nothing(density, make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, density)
    train(network, optimizer, masker)
    masks, weights = dict(masker.masks), {n: w.detach().clone() for n, w in masker.parameters.items()}
    report = masker.update(0)
    assert sum(report.pruned.values()) == sum(report.regrown.values()) == 0
    assert all(torch.equal(masker.masks[name], mask) for name, mask in masks.items())
    assert all(torch.equal(masker.parameters[name], weight) for name, weight in weights.items())


def test_density_one_trains_as_if_there_were_no_masker(make, train):
    (network, optimizer), (plain, plain_optimizer) = make(), make()
    masker = Masker(network, optimizer, 1.0, update_every=2)
    for step in range(5):
        train(network, optimizer, masker, seed=step)
        train(plain, plain_optimizer, seed=step)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    "rules", [("magnitude", "momentum", "momentum"), ("magnitude_variance", "momentum_neuron", "variance")]
)
def test_update_before_the_first_optimiser_step(rules, make):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.15, *rules)
    report = masker.update()
    check_budget(masker, 0.15)
    shares = [n / sum(report.regrown.values()) for n in report.regrown.values()]
    sizes = [parameter.numel() / masker.prunable for parameter in masker.parameters.values()]
    assert shares == pytest.approx(sizes, abs=0.01)
    first_half = masker.masks["conv2.weight"].flatten()[:576].sum() / masker.masks["conv2.weight"].sum()
    assert 0.35 < first_half < 0.65  # spread over the layer, not in its first neurons


def test_updates_end_at_update_until_and_the_rate_decays_to_it(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, update_every=2, update_until=6, prune_rate=0.4, prune_rate_schedule="linear")
    reports = [train(network, optimizer, masker, seed=step) for step in range(10)]
    assert [report.step for report in reports if report] == [2, 4, 6]
    rates = [report.prune_rate for report in reports if report]
    assert rates == pytest.approx([0.005 + 0.395 * 2 / 3, 0.005 + 0.395 / 3, 0.005])
    assert masker.updates == 3


def test_a_sparse_stage_has_a_schedule_of_its_own(make, train):
    """Updates and the decay of the rate run from the step at which the stage begins, whoever counts the steps."""
    schedule = {"update_every": 2, "prune_rate": 0.4, "prune_rate_schedule": "linear"}
    for numbers in (itertools.repeat(None), itertools.count(101)):  # counted by the masker, and told
        network, optimizer = make()
        masker = Masker(network, optimizer, start=100, update_until=106, **schedule)
        reports = []
        for number, step in zip(numbers, range(10), strict=False):
            train(network, optimizer, seed=step)
            reports.append(masker.step(number))
        assert [report.step for report in reports if report] == [102, 104, 106]
        rates = [report.prune_rate for report in reports if report]
        assert rates == pytest.approx([0.005 + 0.395 * 2 / 3, 0.005 + 0.395 / 3, 0.005])
        assert masker.steps == 110


def test_a_mask_changed_in_place_takes_effect(make, train):
    """At the next step on weights, averages, densities and the saved state; the next update makes up for it."""
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.2, update_every=2)
    average = {name: torch.ones_like(weight) for name, weight in masker.parameters.items()}
    masker.masks["conv2.weight"][:8] = False
    masker.masks["fc1.weight"][0, :3] = True
    assert masker.active == count(masker.masks) != masker.budget
    masker.apply_to(average)
    assert not train(network, optimizer, masker)
    assert not network.conv2.weight[:8].any() and network.conv2.weight[8:].any()
    assert not average["conv2.weight"][:8].any() and average["fc1.weight"][0, :3].all()
    assert masker.densities()["conv2.weight"] < 0.15 and not masker.state_dict()["masks"]["conv2.weight"][:8].any()
    assert train(network, optimizer, masker)
    check_budget(masker, 0.2)


def test_an_update_fills_an_emptied_network(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.2, update_every=1)
    for mask in masker.masks.values():
        mask.zero_()
    assert sum(train(network, optimizer, masker).regrown.values()) == masker.budget
    check_budget(masker, 0.2)


def test_masks_are_not_replaced_by_name(make):
    masker = Masker(*make())
    with pytest.raises(TypeError):
        masker.masks["conv1.weight"] = torch.ones(8, 3, 3, 3, dtype=torch.bool)
    with pytest.raises(AttributeError):
        masker.masks = {}
    assert masker.active == masker.budget


def test_first_masks_depend_on_the_seed_alone(make):
    def masks(seed):
        return Masker(*make(seed=seed + 5), seed=seed).masks

    assert all(torch.equal(a, b) for a, b in zip(masks(1).values(), masks(1).values(), strict=True))
    assert not torch.equal(masks(1)["conv2.weight"], masks(2)["conv2.weight"])


def test_saved_state_continues_identically(make, train, tmp_path):
    def build():
        network, optimizer = make()
        masker = Masker(network, optimizer, 0.2, growth="random", update_every=3, update_until=12, seed=4)
        return network, optimizer, masker

    network, optimizer, masker = build()
    for step in range(5):
        train(network, optimizer, masker, seed=step)
    torch.save([network.state_dict(), optimizer.state_dict(), masker.state_dict()], tmp_path / "state.pt")

    resumed, resumed_optimizer, resumed_masker = build()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, state in zip((resumed, resumed_optimizer, resumed_masker), saved, strict=True):
        part.load_state_dict(state)
    for step in range(5, 13):
        train(network, optimizer, masker, seed=step)
        train(resumed, resumed_optimizer, resumed_masker, seed=step)
    assert (resumed_masker.steps, resumed_masker.updates) == (13, 4)
    assert all(torch.equal(masker.masks[name], mask) for name, mask in resumed_masker.masks.items())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), resumed.parameters(), strict=True))


def test_a_masker_made_from_a_state_leaves_loaded_weights_whole(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.3)
    train(network, optimizer, masker)
    loaded, loaded_optimizer = make(seed=1)
    loaded.load_state_dict(network.state_dict())
    again = Masker(loaded, loaded_optimizer, 0.3, seed=9, state=masker.state_dict())
    assert (again.steps, again.seed) == (1, 0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    check_budget(again, 0.3)


def test_state_that_does_not_fit_is_refused_and_changes_nothing(make):
    masker = Masker(*make(), density=0.2)
    state, masks = masker.state_dict(), dict(masker.masks)
    wrong = {
        "conv1.weight is missing": {n: m for n, m in masks.items() if n != "conv1.weight"},
        "tail.weight is not prunable": {**masks, "tail.weight": torch.ones(3, dtype=torch.bool)},
        r"fc1.weight is torch.bool \(3,\)": {**masks, "fc1.weight": torch.ones(3, dtype=torch.bool)},
        "fc1.weight is torch.float32": {**masks, "fc1.weight": masks["fc1.weight"].float()},
        "asks for 398: continue with density=": {**masks, "fc1.weight": torch.zeros_like(masks["fc1.weight"])},
    }
    for message, unfit in wrong.items():
        with pytest.raises(SparseError, match=message):
            masker.load_state_dict({**state, "masks": unfit, "steps": 7})
    with pytest.raises(SparseError, match="lacks masks, updates"):
        masker.load_state_dict({"steps": 1, "seed": 0})
    assert masker.steps == 0
    assert all(masker.masks[name] is mask for name, mask in masks.items())


def test_moving_average_gets_the_density(make):
    network, optimizer = make()
    masker = Masker(network, optimizer, 0.25)
    average = {name: torch.ones_like(tensor, dtype=torch.float64) for name, tensor in network.state_dict().items()}
    masker.apply_to(average)
    for name, mask in masker.masks.items():
        assert torch.equal(average[name] != 0, mask)
    assert (average["conv1.bias"] == 1).all()
    with pytest.raises(SparseError, match=r"no tensors, of these names: conv1\.weight, conv2\.weight"):
        masker.apply_to({f"module.{name}": tensor for name, tensor in average.items()})


def test_synchronize_makes_masks_equal(make, train):
    """As a broadcast from rank 0 would: the second masker takes the first one's masks, at init and at every update."""
    sent = []
    (network, optimizer), (other, other_optimizer) = make(seed=0), make(seed=1)

    def send(masks):
        sent[:] = [mask.clone() for mask in masks]

    def receive(masks):
        for mask, of_first in zip(masks, sent, strict=True):
            mask.copy_(of_first)

    first = Masker(network, optimizer, update_every=2, seed=0, synchronize=send)
    second = Masker(other, other_optimizer, update_every=2, seed=1, synchronize=receive)
    for step in range(4):
        train(network, optimizer, first, seed=step)
        train(other, other_optimizer, second, seed=step + 50)
        assert all(torch.equal(first.masks[name], mask) for name, mask in second.masks.items())
        check_budget(second, 0.15)


def test_exclusions_and_what_the_network_says_is_prunable(make):
    network, optimizer = make()
    assert list(Masker(network, optimizer).masks) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    assert list(Masker(network, optimizer, exclude=["conv*"], min_elements=300).masks) == ["fc1.weight"]
    network.fc1.weight.requires_grad_(False)
    assert "fc1.weight" not in Masker(network, optimizer).masks
    network.prunable_parameters = lambda: {"head": network.fc2.weight}
    assert list(Masker(network, optimizer).masks) == ["head"]


def test_tied_weights_are_counted_once():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    network[1].weight = network[0].weight
    masker = Masker(network, torch.optim.Adam(network.parameters()))
    assert masker.prunable == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_gives_the_same_masks(dtype, make, train):
    updated = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network, optimizer = make()
        network = network.to(dtype=dtype, memory_format=memory_format)
        for parameter in network.parameters():
            parameter.grad = torch.sin(parameter.detach() * 1000)
        optimizer.step()
        masker = Masker(network, optimizer, growth="momentum_neuron")
        masker.update()
        check_budget(masker, 0.15)
        updated.append(masker.masks)
    assert all(torch.equal(updated[0][name], mask) for name, mask in updated[1].items())


REFUSALS = [
    ({"density": 0}, "density=0 must be above 0 and at most 1"),
    ({"density": 1.2}, "density=1.2 must be above 0"),
    ({"density": "0.5"}, "density='0.5' must be"),
    ({"density": 1e-6}, "leaves none of the 1992 prunable weights"),
    ({"prune_rate": 1.5}, "prune_rate=1.5 must be from 0 to 1"),
    ({"update_every": 0}, "update_every=0 must be a whole number of at least 1"),
    ({"update_until": 0}, "update_until=0 must be a whole number"),
    ({"start": -1}, "start=-1 must be a whole number of at least 0"),
    ({"start": 5, "update_until": 5}, "update_until=5 must be a whole number of at least 6"),
    ({"seed": -1}, "seed=-1 must be a whole number of at least 0"),
    ({"min_elements": 10**9}, "no prunable weight with .*: exclude fewer, or lower min_elements"),
    ({"exclude": ["conv3*"]}, "'conv3\\*' matches no parameter, did you mean"),
    ({"exclude": "conv1*"}, "must be a list of patterns"),
    ({"prune": "magnitud"}, "prune='magnitud' is not known, did you mean \"magnitude\""),
    ({"prune": "set"}, 'did you mean "SET"'),
    ({"growth": "momentum-neuron"}, 'did you mean "momentum_neuron"'),
    ({"redistribution": "size"}, "redistribution='size' is not known"),
    ({"prune_rate_schedule": "cosin"}, 'did you mean "cosine"'),
    ({"init": "erdos-renyi"}, 'did you mean "erdos_renyi"'),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_refused_arguments(arguments, message, make):
    with pytest.raises(SparseError, match=message) as refusal:
        Masker(*make(), **arguments)
    assert "\n" not in str(refusal.value)


def test_refused_optimisers(make, train):
    network, _ = make()
    plain = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(SparseError, match=r"SGD keeps no momentum of conv1\.weight: .* SGD with momentum above 0"):
        Masker(network, plain)
    with pytest.raises(SparseError, match="Adagrad keeps no momentum"):
        Masker(network, torch.optim.Adagrad(network.parameters()))
    with pytest.raises(SparseError, match="SGD keeps no second moment"):
        Masker(*make("sgd"), redistribution="variance")
    with pytest.raises(SparseError, match=r"does not hold 2 prunable parameters \(fc1.weight, fc2.weight\)"):
        Masker(network, torch.optim.Adam([*network.conv1.parameters(), *network.conv2.parameters()]))
    masker = Masker(network, plain, growth="random", redistribution="magnitude", update_every=1)
    assert train(network, plain, masker).pruned  # nothing here needs momentum
    check_budget(masker, 0.15)


def test_gradient_growth_without_gradients_is_refused(make, train):
    network, optimizer = make()
    masker = Masker(network, optimizer, growth="gradient")
    with pytest.raises(SparseError, match="before zero_grad"):
        masker.update()
    train(network, optimizer)
    masker.update()
    check_budget(masker, 0.15)


def test_a_parameter_without_gradient_is_carried_along(make, train):
    """A prunable weight that takes no part in the forward pass never gets a momentum."""
    network, _ = make()
    network.unused = nn.Linear(9, 9)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for growth in GROWTH_RULES:
        masker = Masker(network, optimizer, growth=growth, update_every=1)
        train(network, optimizer, masker)
        check_budget(masker, 0.15)


@pytest.mark.parametrize("rules", SGD_RULES[::7])
def test_budget_is_exact_with_sgd(rules, make, train):
    network, optimizer = make("sgd")
    masker = Masker(network, optimizer, 0.3, *rules, update_every=1)
    for step in range(3):
        train(network, optimizer, masker, seed=step)
        check_budget(masker, 0.3)


@pytest.mark.cuda
def test_cuda_gives_the_masks_of_the_cpu(make, train):
    for rules in (rules for rules in EACH_RULE if rules[1] != "random"):
        network, optimizer = make()
        for step in range(5):  # after one step Adam's momentum is the same for all weights, but for rounding
            train(network, optimizer, seed=10 + step)
        masker = Masker(network, optimizer, 0.2, *rules)
        on_gpu, gpu_optimizer = make("adam_fused", device="cuda")
        gpu_masker = Masker(on_gpu, gpu_optimizer, 0.2, *rules)
        for step in range(3):
            copy_training_state(network, optimizer, on_gpu, gpu_optimizer)
            masker.update()
            gpu_masker.update()
            check_budget(gpu_masker, 0.2)
            for name, mask in masker.masks.items():
                assert torch.equal(gpu_masker.masks[name].cpu(), mask), (rules, name)
                assert torch.equal(gpu_masker.parameters[name].cpu(), masker.parameters[name]), (rules, name)
            train(network, optimizer, seed=step)
            masker.apply()


def copy_training_state(network, optimizer, on_gpu, gpu_optimizer):
    """Give the network on the GPU the weights, gradients and moments of the one on the CPU."""
    on_gpu.load_state_dict(network.state_dict())
    gpu_optimizer.load_state_dict({**gpu_optimizer.state_dict(), "state": optimizer.state_dict()["state"]})
    for parameter, gpu_parameter in zip(network.parameters(), on_gpu.parameters(), strict=True):
        gpu_parameter.grad = parameter.grad.cuda()


@pytest.mark.cuda
def test_masks_hold_on_cuda_with_random_growth(make, train):
    network, optimizer = make("adam_fused", device="cuda")
    masker = Masker(network.to(memory_format=torch.channels_last), optimizer, growth="random", update_every=2)
    for step in range(6):
        train(network, optimizer, masker, seed=step)
        check_budget(masker, 0.15)


def test_largest_weights_of_a_trained_network_are_kept():
    """With keep="largest" each layer starts with its share of the budget, taken by magnitude."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    masker = Masker(module, torch.optim.Adam(module.parameters()), density=0.2, keep="largest")
    assert masker.active == round(0.2 * 900)
    for name, mask in masker.masks.items():
        assert before[name][mask].abs().min() >= before[name][~mask].abs().max()
        assert torch.equal(masker.parameters[name].detach(), before[name] * mask)
