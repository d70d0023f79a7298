"""What CONTRIBUTING.md says works: its examples run as they stand in the files that it names."""

import re
import textwrap

import pytest
import torch
from torch import nn

from core.config import check_config, rules, sections
from core.errors import UserError
from model import build_network
from model.sampler import SamplingPlan, sample
from model.sampling import solvers
from sparse import Masker, growth
from sparse.layer import Layer


@pytest.fixture
def example(pytestconfig):
    """example(place) -> the code that stands below a comment with this place."""
    blocks = re.findall(
        r"```python\n# ([^\n]*)\n(.*?)```", (pytestconfig.rootpath / "CONTRIBUTING.md").read_text(), re.S
    )
    assert len(blocks) == 4 and all(code.count("\n") < 20 for _, code in blocks)
    return dict(blocks).__getitem__


def run(code, module, **names):
    """The names that a module has once the code stands at its end."""
    scope = vars(module) | names
    exec(code, scope)
    return scope


def test_the_files_that_it_names_are_there(pytestconfig):
    text = (pytestconfig.rootpath / "CONTRIBUTING.md").read_text()
    for path in set(re.findall(r"`([\w/]+(?:\.py|/))`", text)):
        found = [pytestconfig.rootpath / path, pytestconfig.rootpath / "sparse" / path]
        assert any(place.exists() for place in found), path
    assert len(text.splitlines()) < 90  # a page


def test_a_solver(example, monkeypatch, small_config):
    """Euler's method on the probability-flow ODE is DDIM with η = 0."""
    known = dict(solvers.SOLVERS)
    monkeypatch.setattr(solvers, "SOLVERS", known)
    run(example("model/sampling/solvers.py"), solvers, SOLVERS=known)
    network, lr = build_network(check_config(small_config).model).eval(), torch.rand(1, 3, 8, 8) * 2 - 1
    plan = SamplingPlan.parse("uniform:2", steps=4, n_timestep=20)
    ours, ddim = (sample(network, lr, (16, 16), plan, solver=solver, seeds=[0]) for solver in ("euler", "ddim"))
    torch.testing.assert_close(ours, ddim, atol=1e-5, rtol=1e-5)


def test_a_growth_rule(example, monkeypatch):
    monkeypatch.setitem(growth.GROWTH_RULES, "agreement", None)
    rule = run(example("sparse/growth.py"), growth)["agreement"]
    momentum, gradient = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(50) < 20
    grown = rule(Layer(torch.zeros(50), mask, momentum=momentum, gradient=gradient), torch.tensor(7))
    assert grown.nonzero().flatten().tolist() == sorted((momentum * gradient)[20:].argsort()[-7:].add(20).tolist())

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = torch.optim.Adam(network.parameters())
    masker = Masker(network, optimizer, density=0.2, growth="agreement", update_every=1)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(16, 10)).square().mean().backward()
        optimizer.step()
        assert sum(masker.step().regrown.values()) > 0
    assert sum(int(mask.sum()) for mask in masker.masks.values()) == round(0.2 * 450)


def test_a_key_and_a_rule(example, small_config, monkeypatch):
    header = "@dataclass(frozen=True, eq=False, repr=False, kw_only=True)\nclass TrainSection(TrainSection):\n"
    code = header + textwrap.indent(example("core/config/sections.py, class TrainSection"), "    ")
    entry = run(code, sections)["TrainSection"].entries()["clip_norm"]
    assert entry.default is None and entry.value_type.read("1e-1") == 0.1 and "norm" in entry.meaning
    with pytest.raises(ValueError):
        entry.value_type.read(-1)

    check = run(example("core/config/rules.py"), rules)["check_clipping"]
    monkeypatch.setattr(rules, "RULES", (*rules.RULES, check))
    config = check_config(small_config)
    assert list(check(config)) == []
    clipped = config.replace(train=Clipped())
    assert list(check(clipped)) == [("train.clip_norm", "is for Adam: leave it out with sgd")]


class Clipped:
    clip_norm = 1.0
    optimizer = type("Optimizer", (), {"type": "sgd"})


@pytest.fixture
def small_config():
    return {
        "name": "small",
        "datasets": {"val": {"dataroot": "images", "l_resolution": 8, "r_resolution": 16}},
        "model": {
            "unet": {
                "inner_channel": 8,
                "norm_groups": 4,
                "channel_multiplier": [1, 2],
                "attn_res": [8],
                "res_blocks": 1,
            },
            "lr_encoder": {"n_resblocks": 1, "n_feats": 4},
            "beta_schedule": {"train": {"n_timestep": 20, "linear_start": 1e-3, "linear_end": 0.3}},
            "diffusion": {"image_size": 16},
        },
    }


def test_the_nearest_known_key_is_named(small_config):
    with pytest.raises(UserError, match=r"did you mean|r_resolution"):
        check_config(small_config | {"datasets": {"val": {"l_resolution": 8, "r_resolutoin": 16}}})
