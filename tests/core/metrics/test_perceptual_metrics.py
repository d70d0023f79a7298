"""LPIPS, FID and KID: without their packages by stand-ins, with them beside formulas; nothing is ever downloaded."""

import math
import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.errors import UserError
from core.metrics.perceptual_metrics import (
    ALEXNET,
    INCEPTION,
    GivenFeatures,
    Inception,
    Lpips,
    distances,
    exact,
    load_perceptual_metrics,
)

CPU = torch.device("cpu")
SHAPES = {"0": (4, 3, 11, 11), "3": (5, 4, 5, 5)}  # of the convolutions of a small AlexNet


class SmallLpips(nn.Module):
    """In place of the package's: the sum of its first weights, times the distance of the tensors that it is given."""

    def __init__(self, net, pnet_rand, verbose):
        assert (net, pnet_rand, verbose) == ("alex", True, False)  # pnet_rand: nothing is downloaded
        super().__init__()
        self.net = nn.ModuleDict({
            "slice1": nn.ModuleDict({"0": nn.Conv2d(3, 4, 11)}), "slice2": nn.ModuleDict({"3": nn.Conv2d(4, 5, 5)}),
        })  # fmt: skip

    def forward(self, image, reference):
        assert not torch.is_grad_enabled()
        first = next(iter(self.net.parameters()))
        return first.sum() * (image - reference).abs().mean().reshape(1, 1, 1, 1)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """No weights on this machine, and none of the packages but for stand-ins."""
    load_perceptual_metrics.cache_clear()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    for package in ("lpips", "torchmetrics", "torchmetrics.image.fid", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    yield
    load_perceptual_metrics.cache_clear()


@pytest.fixture
def lpips(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=SmallLpips))


def weights(prefix="features.", prefixes=None):
    torch.manual_seed(0)
    return {
        f"{(prefixes or {}).get(n, prefix)}{n}.{kind}": torch.rand(shape if kind == "weight" else shape[:1])
        for n, shape in SHAPES.items()
        for kind in ("weight", "bias")
    }


def in_cache(name, content, folder):
    (folder / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "hub" / "checkpoints" / name)
    return folder / "hub" / "checkpoints" / name


def test_lpips_of_cached_weights_gets_images_in_minus_one_to_one(lpips, tmp_path):
    in_cache(ALEXNET, weights() | {"classifier.1.weight": torch.zeros(2, 2)}, tmp_path)
    perceptual = load_perceptual_metrics(CPU)
    black = np.zeros((32, 33, 3), np.uint8)
    assert perceptual.lpips(black, black + 255) == pytest.approx(2 * weights()["features.0.weight"].sum().item())
    assert set(perceptual.missing) == {"fid", "kid"}
    assert math.isnan(perceptual.lpips(black[:30], black[:30]))  # too small for AlexNet


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("slices", [None, {"0": "net.slice1.", "3": "net.slice2."}])
def test_weights_of_a_file_that_is_named(lpips, tmp_path, ending, slices):
    file, tensors = tmp_path / f"alex.{ending}", weights(prefixes=slices)
    save_file(tensors, file) if ending == "safetensors" else torch.save(tensors, file)
    network = load_perceptual_metrics(CPU, str(file)).lpips.network
    for name, tensor in network.net.state_dict().items():
        assert torch.equal(tensor, weights()[f"features.{name.partition('.')[2]}"])


def test_random_numbers_of_a_training_stay_as_they_are(lpips, tmp_path):
    in_cache(ALEXNET, weights(), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_perceptual_metrics(CPU)
    assert torch.equal(torch.rand(3), expected)


def test_judges_compute_in_float32_and_leave_a_training_its_arithmetic(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with exact():
        assert not torch.backends.cudnn.allow_tf32 and not torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32 and torch.is_grad_enabled()


def test_files_that_are_no_weights(lpips, tmp_path):
    wrong = {
        "shape.pth": weights() | {"features.3.weight": torch.zeros(5, 4, 3, 3)},
        "missing.pth": {"features.0.weight": torch.zeros(SHAPES["0"])},
        "other.pth": [1, 2],
    }
    for name, content in wrong.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(
            UserError, match=rf"{name}: not the weights of torchvision's AlexNet, which have features\.\d"
        ):
            load_perceptual_metrics(CPU, str(tmp_path / name))
    torch.save(random.Random(0), tmp_path / "code.pth")
    for name, words in (("code.pth", "not a file of tensors"), ("nowhere.pth", "no such file")):
        with pytest.raises(UserError, match=words):
            load_perceptual_metrics(CPU, str(tmp_path / name))


def test_damaged_weights_that_nobody_named_end_nothing(lpips, tmp_path):
    in_cache(ALEXNET, {}, tmp_path).write_bytes(b"PK")
    assert "truncated, or not a file of tensors" in load_perceptual_metrics(CPU).missing["lpips"]


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    perceptual = load_perceptual_metrics(CPU)
    assert perceptual[:2] == (None, None)
    for metric, name in (("lpips", ALEXNET), ("fid", INCEPTION), ("kid", INCEPTION)):
        assert perceptual.missing[metric].startswith("needs the packages of requirements-metrics.txt and the weights")
        assert str(tmp_path / "hub" / "checkpoints" / name) in perceptual.missing[metric]
    load_perceptual_metrics.cache_clear()
    file = in_cache(ALEXNET, weights(), tmp_path)
    in_cache(INCEPTION, {}, tmp_path)
    missing = load_perceptual_metrics(CPU).missing
    assert missing["lpips"] == "needs the package lpips: pip install -r requirements-metrics.txt"
    assert missing["fid"] == missing["kid"] == "needs the package torchmetrics: pip install -r requirements-metrics.txt"
    with pytest.raises(UserError, match="cannot be used: needs the package lpips"):
        load_perceptual_metrics(CPU, str(file))


def test_a_torchvision_that_does_not_fit_torch(tmp_path, monkeypatch):
    in_cache(ALEXNET, weights(), tmp_path)

    class Broken:
        def find_spec(self, name, *_):
            if name == "lpips":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "lpips")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    why = load_perceptual_metrics(CPU).missing["lpips"]
    assert why.startswith("the package lpips does not work beside torch") and "nms does not exist" in why
    assert "\n" not in why and "see requirements-metrics.txt" in why


# ---------------------------------------------------------------------------------------------------------------------
# FID and KID.


class Recorder:
    """In place of a metric of torchmetrics: keeps what it is given."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options, self.given = arguments, options, {}

    def update(self, images, real):
        self.given[real] = self.arguments[0](images)

    def compute(self):
        distance = (self.given[True].mean() - self.given[False].mean()).abs()
        return (distance, None) if len(self.arguments) > 1 else distance


@pytest.fixture
def torchmetrics(monkeypatch):
    """{"fid", "kid": the metrics that were made of the stand-in}"""
    made = {}
    for name, kind in (("fid", "FrechetInceptionDistance"), ("kid", "KernelInceptionDistance")):
        module = ModuleType(f"torchmetrics.image.{name}")
        setattr(module, kind, lambda *a, _name=name, **k: made.setdefault(_name, Recorder(*a, **k)))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for package in ("torchmetrics", "torchmetrics.image", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    return made


def test_sets_reach_torchmetrics(torchmetrics):
    images, truths = [np.full(6, n, np.float32) for n in (1, 2, 3)], [np.full(6, 5, np.float32)] * 3
    assert distances(images, truths) == {"fid": 3, "kid": 3000}
    fid, kid = torchmetrics["fid"], torchmetrics["kid"]
    assert torch.equal(fid.given[False], torch.tensor(np.stack(images)).double()) and torch.equal(
        kid.given[True], fid.given[True]
    )
    assert fid.arguments[0].num_features == 6 and isinstance(fid.arguments[0], GivenFeatures)
    assert kid.arguments[1:] == (1, 3)  # one subset, of all
    assert not fid.options["sync_on_compute"] and not kid.options["sync_on_compute"]


def test_large_sets_are_compared_in_subsets(torchmetrics):
    distances([np.zeros(2, np.float32)] * 1001, [np.zeros(2, np.float32)] * 1001)
    assert torchmetrics["kid"].arguments[1:] == (100, 1000)


def test_one_image_is_no_set(torchmetrics):
    assert all(map(math.isnan, distances([np.zeros(6)], [np.zeros(6)]).values())) and not torchmetrics


def test_inception_gets_bytes():
    class Network(nn.Module):
        def forward(self, images):
            assert images.dtype == torch.uint8
            return images.float().mean((2, 3))

    image = np.zeros((9, 8, 3), np.uint8) + np.uint8([1, 2, 3])
    assert Inception(Network(), CPU)(image).tolist() == [1, 2, 3]


def test_distances_are_the_formulas(monkeypatch):
    monkeypatch.undo()
    pytest.importorskip("torchmetrics.image.fid", exc_type=Exception)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (40, 5)), rng.normal(0.3, 1.5, (50, 5))
    told = distances(list(a), list(b))
    roots = np.linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real.clip(0) ** 0.5
    fid = (
        np.square(a.mean(0) - b.mean(0)).sum()
        + np.var(a, 0, ddof=1).sum()
        + np.var(b, 0, ddof=1).sum()
        - 2 * roots.sum()
    )
    assert told["fid"] == pytest.approx(fid)
    b = b[:40]
    aa, bb, ab = ((x @ y.T / 5 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    kid = ((aa.sum() - np.trace(aa)) + (bb.sum() - np.trace(bb))) / (40 * 39) - 2 * ab.mean()
    assert distances(list(a), list(b))["kid"] == pytest.approx(1000 * kid)


def test_lpips_is_the_formula(monkeypatch, tmp_path):
    monkeypatch.undo()
    lpips = pytest.importorskip("lpips", exc_type=Exception)
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    torch.save(network.state_dict(), tmp_path / "alex.pth")
    metric = load_perceptual_metrics(CPU, str(tmp_path / "alex.pth")).lpips
    assert isinstance(metric, Lpips)
    pair = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    batches = [torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1 for image in pair]
    expected = network(*batches).item()
    assert metric(*pair) == pytest.approx(expected) and metric(pair[0], pair[0]) == 0
    assert not math.isnan(metric(*pair[:, :31, :31]))  # the smallest
