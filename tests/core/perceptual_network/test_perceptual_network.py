"""A perceptual network: from a folder of images to a file whose features tell a distillation how images look."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from core.errors import UserError
from core.perceptual_network.__main__ import main
from core.perceptual_network.training import (
    CROP,
    LARGEST,
    Images,
    blurred,
    load_perceptual_network,
    rate,
    read_middle,
    spoil,
    trained,
)  # fmt: skip
from model.distillation.perceptual_network import SPOILED, PerceptualNetwork

CPU = torch.device("cpu")


@pytest.fixture
def run(run_main):
    """run(*options) -> (exit code, stdout, stderr)."""
    return partial(run_main, main, "--device", "cpu")


def texture(n, side=96):
    """Stripes across, stripes along, and grain: (H, W, 3) as an image."""
    lines = torch.arange(side)
    striped = ((lines // 3) % 2 * 200).float()
    grain = torch.rand(side, side, generator=torch.Generator().manual_seed(0)) * 255
    grey = [striped[:, None].expand(side, side), striped[None].expand(side, side), grain][n]
    return Image.fromarray(grey.byte().numpy()).convert("RGB")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for n in range(3):
        texture(n, 80 + 8 * n).save(tmp_path / "images" / "inner" / f"{n}.png")
    return tmp_path / "images"


def only_line(text):
    assert text.count("\n") == 1
    return text


def test_it_learns_which_image_a_crop_is_of(folder):
    """On crops that it has not seen. The two ways of stripes are alike where a crop is turned, so grain counts."""
    images = Images(sorted(folder.rglob("*.png")), CPU)
    network = trained(images, 60, 24, width=4).eval()
    torch.manual_seed(9)
    crops, number = images.crops(60)
    assert crops.shape == (60, 3, CROP, CROP) and crops.abs().max() <= 1
    with torch.no_grad():
        told = network(crops)[0].argmax(1)
    assert ((told == 2) == (number == 2)).float().mean() > 0.9


def test_a_crop_is_of_the_image_that_its_number_names(tmp_path):
    """Images of different sizes, each of one grey."""
    for n, (size, grey) in enumerate([((64, 90), 40), ((100, 70), 120), ((66, 66), 220)]):
        Image.new("RGB", size, (grey,) * 3).save(tmp_path / f"{n}.png")
    images = Images(sorted(tmp_path.glob("*.png")), CPU)
    images.varied = lambda x: x
    torch.manual_seed(0)
    for _ in range(5):
        crops, number = images.crops(16)
        expected = torch.tensor([40, 120, 220])[number] / 127.5 - 1
        torch.testing.assert_close(crops, expected[:, None, None, None].expand_as(crops), atol=1e-5, rtol=0)


def test_crops_are_of_places_all_over_their_image(tmp_path):
    """Each pixel tells its row, its column and its image. The least side is that of a crop, so that none is resized."""
    sizes = [(64, 67), (90, 66), (65, 130)]  # height, width
    for n, (height, width) in enumerate(sizes):
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, 50 * n)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{n}.png")
    images = Images(sorted(tmp_path.glob("*.png")), CPU)
    images.varied = lambda x: x
    assert images.pixels.numel() == 3 * sum(height * width for height, width in sizes)  # and no padding
    torch.manual_seed(0)
    crops, numbers = images.crops(1500)
    crops = ((crops + 1) * 127.5).round().int()
    assert (crops[:, 2] == 50 * numbers[:, None, None]).all()
    along = torch.arange(CROP)
    for axis, lines in ((0, along[:, None]), (1, along)):
        firsts = crops[:, axis, :1, :1]
        assert (crops[:, axis] == firsts + lines).all()
        for n, size in enumerate(sizes):
            assert set(firsts[numbers == n].flatten().tolist()) == set(range(size[axis] - CROP + 1))


def test_crops_are_spoiled_as_they_say():
    torch.manual_seed(0)
    crops = 1.2 * torch.rand(512, 3, CROP, CROP) - 0.6
    spoiled, way, severity = spoil(crops)
    assert spoiled.abs().max() <= 1 and severity.min() >= 0 and severity.max() <= 1
    named = {name: way == n for n, name in enumerate(SPOILED)}
    assert torch.equal(spoiled[named["not"]], crops[named["not"]]) and not severity[named["not"]].any()
    detail = ((spoiled - blurred(spoiled, 2.0)).square().mean((1, 2, 3))).sqrt()
    before = ((crops - blurred(crops, 2.0)).square().mean((1, 2, 3))).sqrt()
    for name, sign in (("blurred", -1), ("coarse", -1), ("noisy", 1), ("sharpened", 1)):
        change = sign * (detail - before)[named[name]]
        assert (change > 0).all(), name
        assert torch.corrcoef(torch.stack([severity[named[name]], change]))[0, 1] > 0.8, name


def test_crops_vary_as_often_as_said():
    """Of crops that rise slowly to the right and fast downwards, in another level of each channel."""
    torch.manual_seed(0)
    right, down = torch.linspace(-0.05, 0.05, 8), torch.linspace(-0.15, 0.15, 8)
    crop = torch.tensor([0.2, 0.0, -0.3])[:, None, None] + right + down[:, None]
    varied = Images.varied(crop.expand(4000, 3, 8, 8))
    to_right = (varied[..., 1:] - varied[..., :-1]).mean((1, 2, 3))
    downwards = (varied[..., 1:, :] - varied[..., :-1, :]).mean((1, 2, 3))
    turned = to_right.abs() > downwards.abs()
    is_grey = (varied - varied.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-6
    flipped = torch.where(turned, downwards, to_right) < 0
    toned = (varied.mean((1, 2, 3)) - crop.mean()).abs() > 1e-5
    shares = [share.float().mean().item() for share in (flipped, turned, is_grey, toned)]
    assert shares == pytest.approx([0.5, 0.3, 0.3, 0.8], abs=0.04)
    assert Images.varied(torch.full((50, 3, 8, 8), 0.9)).max() == 1


def test_of_a_large_image_the_middle_is_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (LARGEST + 20, LARGEST + 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_middle(tmp_path / "a.png").permute(1, 2, 0), pixels[10:-10, 3:-3])
    Image.fromarray(pixels[:70]).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_middle(tmp_path / "b.png").permute(1, 2, 0), pixels[:70, 3:-3])


def test_what_teaches_it():
    """Each part by hand, and each reaches the stages."""
    torch.manual_seed(0)
    network = PerceptualNetwork(3, 2).eval()
    crops, images, ways = torch.rand(4, 3, 32, 32) - 0.5, torch.tensor([2, 0, 1, 1]), torch.tensor([4, 0, 1, 3])
    severity = torch.tensor([0.1, 0.0, 0.9, 0.4])
    parts = network.loss(crops, images, ways, severity)
    of_images, of_ways, told = network(crops)
    each = torch.arange(4)
    expected = [
        -of_images.softmax(1)[each, images].log().mean(),
        -of_ways.softmax(1)[each, ways].log().mean(),
        (told - severity).abs().mean(),
    ]
    torch.testing.assert_close(parts, torch.stack(expected))
    for part in parts:
        (taught,) = torch.autograd.grad(part, network.stages[0][0].weight, retain_graph=True)
        assert taught.any()


def test_the_rate_warms_up_and_ends_at_zero():
    rates = [rate(step, 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(1 / 101) and rates.index(max(rates)) == 100 and rates[1000] == 0
    assert rates[500] == pytest.approx(0.5) and rate(0, 1) == 1


def test_blur_is_that_of_scipy():
    from scipy.ndimage import gaussian_filter  # comes with scikit-image

    crop = torch.rand(1, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter(crop.numpy(), (0, 0, 1.2, 1.2), mode="mirror", truncate=4.1)
    torch.testing.assert_close(blurred(crop, 1.2), torch.from_numpy(expected), atol=2e-4, rtol=0)


def test_from_the_command_line_to_the_same_file_twice(run, folder, tmp_path):
    options = "--images", folder, "--steps", 3, "--batch", 4, "--width", 2
    written = []
    for name in "a", "b":
        code, out, _ = run(*options, "-o", tmp_path / f"{name}.safetensors")
        assert code == 0 and "of 3 images" in out
        written.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert written[0] == written[1]
    network = load_perceptual_network(tmp_path / "a.safetensors", CPU)
    assert network.channels == [2, 4, 8, 8, 8] and not network.training
    assert not [p for p in network.parameters() if p.requires_grad]
    shapes = [tuple(f.shape) for f in network.features(torch.zeros(1, 3, 64, 32))]
    assert shapes == [(1, 2, 32, 16), (1, 4, 16, 8), (1, 8, 8, 4), (1, 8, 8, 4), (1, 8, 8, 4)]


def test_what_it_cannot_learn_from_is_one_line(run, folder, tmp_path):
    target = tmp_path / "new" / "network.safetensors"
    (tmp_path / "one").mkdir()
    texture(0).save(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "b.heic").touch()
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "b.heic").touch()
    (tmp_path / "small").mkdir()
    for name in "ab":
        texture(0, 63).save(tmp_path / "small" / f"{name}.png")
    refused = {
        tmp_path / "none": "no such folder",
        tmp_path / "no": "no image in this folder (1 left out, as",
        tmp_path / "one": "two images or more are needed, and 1 found (1 left out, as",
        tmp_path / "small": "63x63 is too small; images need 64x64 pixels",
    }
    for images, problem in refused.items():
        code, _, err = run("--images", images, "-o", target, "--steps", 2)
        assert code == 2 and problem in only_line(err)
    code, _, err = run("--images", folder, "-o", tmp_path / "network.txt", "--steps", 2)
    assert code == 2 and "network.txt" in only_line(err)
    for seed in "-1", 2**32, "9" * 30:
        code, _, err = run("--images", folder, "-o", target, f"--seed={seed}")
        assert code == 2 and "not a whole number from 0 to 4294967295" in only_line(err)
    assert not list(tmp_path.rglob("*.safetensors")) and not target.parent.exists()


def test_the_least_of_all(run, tmp_path):
    """One step of one crop and one channel, on images of one colour, in the folder of the result. It tells what it does
    not read."""
    Image.new("RGB", (CROP, CROP), "teal").save(tmp_path / "a.png")
    Image.new("L", (90, 70), 40).save(tmp_path / "b.png")
    (tmp_path / "c.heic").touch()
    target = tmp_path / "least.safetensors"
    code, out, err = run("--images", tmp_path, "-o", target, "--steps", 1, "--batch", 1, "--width", 1)
    assert code == 0 and "of 2 images" in out and "1 left out, as" in err and "c.heic" in only_line(err)
    assert all(f.isfinite().all() for f in load_perceptual_network(target, CPU).features(torch.zeros(1, 3, 16, 16)))


def test_values_of_a_file_in_halves_are_computed_with_in_float32(tmp_path):
    torch.manual_seed(0)
    network = PerceptualNetwork(3, 2).half()
    file = tmp_path / "half.safetensors"
    save_file(network.state_dict(), file, {"perceptual_network": '{"images": 3, "width": 2}'})
    x = torch.rand(1, 3, 32, 32) - 0.5
    found = load_perceptual_network(file, CPU).features(x)
    for feature, expected in zip(found, network.float().eval().features(x), strict=True):
        torch.testing.assert_close(feature, expected.detach())


def test_another_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="is no file: make it with python -m core"):
        load_perceptual_network(tmp_path / "none.safetensors", CPU)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    narrow = tmp_path / "narrow.safetensors"
    state = {name: value.contiguous() for name, value in PerceptualNetwork(3, 2).state_dict().items()}
    save_file(state, narrow, {"perceptual_network": '{"images": 3, "width": 4}'})
    huge = tmp_path / "huge.safetensors"
    save_file(state, huge, {"perceptual_network": '{"images": 3, "width": 1000000}'})
    for file in other, narrow, huge:
        with pytest.raises(UserError, match=rf"{file.name} is no file of python -m core.perceptual_network") as caught:
            load_perceptual_network(file, CPU)
        assert "\n" not in str(caught.value)
