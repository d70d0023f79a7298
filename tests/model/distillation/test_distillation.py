"""Distillation: the student's chain is the sampler's, and each loss reaches what it is to teach and nothing else."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.distillation.discriminator import (
    Blur,
    Discriminator,
    LocalContrast,
    PixelHead,
    discriminator_loss,
    generator_loss,
    opponent,
)  # fmt: skip
from model.distillation.fixed_pattern import fixed_pattern
from model.distillation.loss import DistillationLoss, draw_view, seen, texture_distance
from model.distillation.perceptual_network import PerceptualNetwork
from model.distillation.student import StudentChain
from model.distillation.teacher import TeacherFeatures
from model.resampling import resample
from model.sampler import SamplingPlan, sample


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def chain_of(tiny, steps, key_steps, consistency=0):
    schedule = tiny.network.schedule
    plan = SamplingPlan.parse(key_steps, steps, schedule.n_timestep)
    return plan, StudentChain(tiny.network, plan, 0.8, consistency)


@pytest.mark.parametrize(
    ("steps", "key_steps", "consistency"), [(1, "none", 2), (2, "none", 0), (4, "uniform:4", 2), (4, "0,1", 1)]
)
def test_the_student_samples_as_the_sampler_does(tiny, steps, key_steps, consistency):
    plan, student = chain_of(tiny, steps, key_steps, consistency)
    lr, noise = images(2, 3, 8, 8), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    options = {"noise": lambda i, shape: noise, "start": 0.8, "consistency": consistency}
    expected = sample(tiny.network, lr, (32, 32), plan, "ddim", **options)
    with torch.no_grad():
        result = student(lr, resample(lr, (32, 32)), noise)
    torch.testing.assert_close(result.clamp(-1, 1), expected, atol=1e-5, rtol=1e-5)


def test_features_are_the_last_skip_of_each_level_and_the_bottleneck(tiny):
    """One with 16 channels at full size, ...: by the sizes and widths of the network's levels."""
    teacher = TeacherFeatures(copy.deepcopy(tiny.network))  # it freezes what it is given
    image, noise, level = images(2, 3, 32, 32), images(2, 3, 32, 32, seed=1), torch.tensor([0.9, 0.5])
    lr_feature = images(2, 3, 32, 32, seed=2)
    features = teacher(image, lr_feature, noise, level)
    unet = tiny.config["unet"]
    widths = [unet["inner_channel"] * m for m in unet["channel_multiplier"]]
    sides = [32 // 2**n for n in range(len(widths))]
    shapes = [(2, width, side, side) for width, side in zip(widths, sides, strict=True)]
    assert [tuple(f.shape) for f in features] == [*shapes, shapes[-1]]
    assert teacher.channels == [shape[1] for shape in (*shapes, shapes[-1])]
    x_t = level[:, None, None, None] * image + (1 - level**2).sqrt()[:, None, None, None] * noise
    state = tiny.network.encoder(torch.cat([lr_feature, x_t], 1), tiny.network.embedding(level))
    assert torch.equal(features[-1], state.bottleneck)
    assert torch.equal(features[-2], state.skips[-1])


def test_hinge_losses():
    """By hand: D(real) = 0.5 and 3, D(fake) = -2 and 1, of two heads."""
    real, fake = ([torch.full((1, 1, 2, 2), value) for value in values] for values in ((0.5, 3.0), (-2.0, 1.0)))
    assert discriminator_loss(real, fake).item() == pytest.approx(((0.5 + 0) + (0 + 2)) / 2)
    assert generator_loss(fake).item() == pytest.approx((2 - 1) / 2)


@pytest.fixture
def distillation(tiny):
    """A loss over a copy of the small network, and what it takes."""
    torch.manual_seed(0)
    student, teacher = (copy.deepcopy(tiny.network).requires_grad_(True) for _ in range(2))
    plan = SamplingPlan.parse("none", 1, student.schedule.n_timestep)
    features = TeacherFeatures(teacher)
    heads = Discriminator(features.channels, 8, pixels=True)
    loss = DistillationLoss(StudentChain(student, plan, 0.8), features, heads, 0.7, 0.3, 0.4)
    lr, hr = images(2, 3, 8, 8), images(2, 3, 32, 32, seed=1)
    noise, under = (torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    generator = torch.Generator().manual_seed(4)
    view = [draw_view(2, 32, 3, mirrored, generator) for mirrored in (False, True)]
    return loss, (lr, hr, noise, under, torch.tensor([0.99, 0.9]), *view, 1.0)


def test_each_loss_reaches_its_own(distillation):
    """The heads get the gradient of their own loss alone, the student that of the rest, the teacher none."""
    loss, given = distillation
    total = loss(*given)
    total.backward()
    pixels, features, texture, _, adversarial, own, *_ = loss.parts
    torch.testing.assert_close(total.detach(), pixels + 0.7 * features + 0.4 * texture + 0.3 * adversarial + own)
    assert texture > 0
    assert not [p for p in loss.teacher.parameters() if p.grad is not None]
    heads = [p.grad.clone() for p in loss.discriminator.parameters()]
    student = [p.grad.clone() for p in loss.student.network.parameters() if p.grad is not None]

    loss.feature_weight = loss.texture_weight = loss.adversarial_weight = 1e-12  # with 0 the heads are not asked
    loss.zero_grad()
    loss(*given).backward()
    for before, p in zip(heads, loss.discriminator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, before)  # no other loss has a part in it
    changed = [p.grad for p in loss.student.network.parameters() if p.grad is not None]
    assert not all(torch.allclose(a, b) for a, b in zip(student, changed, strict=True))

    lr, hr, noise = given[:3]
    alone = [p for p in loss.student.network.parameters() if p.grad is not None]
    expected = torch.autograd.grad(F.l1_loss(loss.student(lr, resample(lr, (32, 32)), noise), hr), alone)
    for p, gradient in zip(alone, expected, strict=True):  # and the discriminator's loss none in the student's
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-4)


def test_a_truth_as_result_costs_nothing(distillation):
    """Where the student gives the truth, pixels, features and texture do not differ, wherever the judges look."""
    loss, given = distillation
    loss.student.forward = lambda lr, lr_up, noise, scale: given[1].clone().requires_grad_(True)
    loss(*given)
    assert loss.parts[0] == loss.parts[1] == loss.parts[2] == 0


def test_texture_alone_may_teach(distillation):
    loss, given = distillation
    loss.feature_weight = loss.adversarial_weight = 0
    weight = loss.student.network.encoder.input.weight  # far from the loss
    (taught,) = torch.autograd.grad(total := loss(*given), weight)
    pixels, _, texture, _, _, own, *_ = loss.parts
    torch.testing.assert_close(total.detach(), pixels + 0.4 * texture + own)
    loss.texture_weight = 0
    (untaught,) = torch.autograd.grad(total := loss(*given), weight)
    assert total == loss.parts[0]  # pixels alone
    assert (taught - untaught).norm() > 0.01 * untaught.norm()


def test_without_weight_no_texture_is_computed(distillation, monkeypatch):
    loss, given = distillation
    loss.texture_weight = 0
    monkeypatch.setattr("model.distillation.loss.texture_distance", None)  # not to be called
    loss(*given).backward()
    assert loss.parts[1] > 0 and loss.parts[2] == 0


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_mirror_image_teaches_without_a_gradient_of_its_own(distillation, scale):
    """By hand: the L1 to the flipped result of the flipped LR image, under the same noise, as a constant."""
    loss, given = distillation
    given = (*given[:-1], scale)
    lr, hr, noise = given[:3]
    loss.feature_weight = loss.texture_weight = loss.adversarial_weight = 0
    loss.mirror_weight = 2
    weight = loss.student.network.encoder.input.weight
    (taught,) = torch.autograd.grad(total := loss(*given), weight)
    result = loss.student(lr, resample(lr, (32, 32)), noise, scale)
    mirrored = loss.student(lr.flip(-1), resample(lr.flip(-1), (32, 32)), noise, scale).flip(-1).detach()
    expected = (result - hr).abs().mean() + 2 * (result - mirrored).abs().mean()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(taught, torch.autograd.grad(expected, weight)[0], atol=1e-6, rtol=1e-4)
    distance = (result - mirrored).abs().mean().detach()
    torch.testing.assert_close(loss.parts[6], distance)
    loss.feature_weight = 1  # with others that judge, it is the same part of the sum
    total = loss(*given).detach()
    torch.testing.assert_close(loss.parts[6], distance)
    torch.testing.assert_close(total, loss.parts[0] + loss.parts[1] + loss.parts[5] + 2 * distance)
    assert distance > 0

    student, calls = loss.student.forward, []
    loss.student.forward = lambda *given: calls.append(given) or student(*given)
    for loss.mirror_weight, needed in ((2, 2), (0, 1)):
        calls.clear()
        loss(*given)
        assert len(calls) == needed


@pytest.mark.parametrize("side", [8, 16])
def test_the_fixed_pattern_of_a_batch_is_its_common_error(distillation, side):
    """Of images of 32 pixels and a tile in each LR pixel: the tile without its mean, whatever else is wrong."""
    loss, (_, hr, noise, *given) = distillation
    loss.pattern_weight = 3
    lr, period = images(2, 3, side, side), 32 // side
    tile = torch.randn(3, period, period, generator=torch.Generator().manual_seed(6)) / 20
    slope = torch.linspace(-0.3, 0.5, hr.shape[3])  # an error that does not repeat
    result = (hr + tile.repeat(1, lr.shape[2], lr.shape[3]) + slope).requires_grad_(True)
    loss.student.forward = lambda lr, lr_up, noise, scale: result
    expected = (tile - tile.mean(dim=(1, 2), keepdim=True)).abs().mean()
    for judged in True, False:
        if not judged:
            loss.feature_weight = loss.texture_weight = loss.adversarial_weight = 0
        totals, gradients = [], []
        for weight in 3, 0:
            loss.pattern_weight = weight
            totals.append(loss(lr, hr, noise, *given))
            gradients.append(torch.autograd.grad(totals[-1], result)[0])
            torch.testing.assert_close(loss.parts[7], expected if weight else torch.zeros(()), atol=1e-5, rtol=0)
        torch.testing.assert_close(totals[0] - totals[1], 3 * expected, atol=1e-5, rtol=0)
        own = torch.autograd.grad(3 * fixed_pattern(result - hr, period).abs().mean(), result)[0]
        torch.testing.assert_close(gradients[0] - gradients[1], own, atol=1e-6, rtol=0)


def test_the_fixed_pattern_keeps_its_digits_under_autocast(distillation):
    """Errors of 10 grey levels with a tile of a tenth of one: bfloat16 has no such digits."""
    loss, _ = distillation
    loss.pattern_weight = 1
    tile = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]) / 127.5
    error = images(4, 3, 32, 32) * 10 / 127.5 + tile.repeat(16, 16)
    expected = fixed_pattern(error, 2).abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss.pattern_size(error, (16, 16)), expected, rtol=1e-5, atol=0)
        assert loss.pattern_size(error.bfloat16(), (16, 16)).dtype == torch.float32


@pytest.mark.parametrize("size", [(8, 20), (12, 12), (32, 32), (4, 4)])
def test_without_whole_lr_pixels_there_is_no_fixed_pattern(distillation, size):
    loss, (_, hr, *_) = distillation
    loss.pattern_weight = 1
    assert loss.pattern_size(hr, size) == 0
    assert loss.pattern_size(images(2, 3, 28, 28), (7, 7)) == 0 != loss.pattern_size(images(2, 3, 32, 32), (8, 8))


@pytest.fixture
def perceived(distillation):
    """The same, with a perceptual network as the only judge, and no discriminator's heads but on its features."""
    loss, given = distillation
    torch.manual_seed(5)
    network = PerceptualNetwork(3, 4).eval().requires_grad_(False)
    heads = Discriminator([*loss.teacher.channels, *network.channels], 4)
    loss = DistillationLoss(loss.student, loss.teacher, heads, 0, 0, perceptual=network, perceptual_weight=2)
    return loss, given, network


def test_a_perceptual_network_may_teach_alone(perceived):
    """The part is the L1 of the stages, but the finest, in units of the truth; the discriminator sees all."""
    loss, given, network = perceived
    lr, hr, noise, *_, rows, columns, scale = given
    total = loss(*given)
    result, truth = (
        seen(image, rows, columns) for image in (loss.student(lr, resample(lr, (32, 32)), noise, scale), hr)
    )
    pairs = list(zip(network.features(result), network.features(truth), strict=True))
    second, third, fourth, fifth = ((f - t).abs().mean() / t.abs().mean() for f, t in pairs[1:])
    expected = 0.6 * second + 0.2 * third + 0.1 * fourth + 0.1 * fifth
    pixels, _, _, perceptual, _, own, *_ = loss.parts
    torch.testing.assert_close(perceptual, expected.detach())
    torch.testing.assert_close(total.detach(), pixels + 2 * perceptual + own)
    total.backward()
    assert all(p.grad.any() for name, p in loss.discriminator.named_parameters() if name.endswith("4.weight"))
    assert not [p for p in network.parameters() if p.grad is not None]
    loss.perceptual_weight = 0
    loss.zero_grad()
    assert loss(*given) == pixels  # nothing else teaches


def test_the_discriminator_is_shown_the_features_of_each_in_units_of_the_truth(perceived):
    loss, given, network = perceived
    judged = []
    loss.judge = lambda fake, real: judged.extend((fake, real)) or (torch.zeros(()), torch.zeros(()))
    loss(*given)
    (found, result, _), (known, truth, _) = judged
    for shown, image, learns in ((found, result, True), (known, truth, False)):
        for feature, own, true in zip(shown[-5:], network.features(image), network.features(truth), strict=True):
            torch.testing.assert_close(feature, own / true.abs().mean())
            assert feature.requires_grad is learns


def test_without_heads_on_it_the_discriminator_sees_the_teacher_alone(perceived):
    loss, given, _ = perceived
    loss(*given)
    before = loss.parts[3].clone()
    loss.perceptual_heads, loss.discriminator = False, Discriminator(loss.teacher.channels, 4)
    loss(*given)
    assert loss.parts[3] == before > 0


def test_the_finest_features_are_not_compared(perceived):
    loss, given, network = perceived
    features = network.features
    network.features = lambda image: [torch.rand(1) + 1, *features(given[1])[1:]]
    assert loss.perceive(given[1], given[1])[0] == 0


class KnownFeatures(nn.Module):
    """In place of a teacher's encoder: four levels of features that are the image itself, ever smaller."""

    channels = (3, 3, 3, 3)

    def __init__(self):
        super().__init__()
        self.lr_encoder = resample

    def forward(self, image, lr_feature, noise, noise_level):
        return [F.avg_pool2d(image, 2**n) * (n + 1) for n in range(4)]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((0, 0, 0, 1), (0, 0, 0, 1)), ((3, 0, 0, 0), (1, 0, 0, 0)), ((1, 0, 3, 0), (0.25, 0, 0.75, 0)), ((), [0.25] * 4)],
)
def test_levels_have_their_weights_in_the_distance(distillation, weights, expected):
    """Where one has all, the distance is the L1 of that level alone, in units of the truth's mean size."""
    loss, given = distillation
    heads = Discriminator(KnownFeatures.channels, 4)
    loss = DistillationLoss(loss.student, KnownFeatures(), heads, level_weights=weights)
    loss(*given)
    lr, hr, noise, *_, rows, columns, scale = given
    result = loss.student(lr, resample(lr, (32, 32)), noise, scale)
    levels = []
    for n in range(4):
        found, truth = (F.avg_pool2d(seen(image, rows, columns), 2**n) for image in (result, hr))
        levels.append((found - truth).abs().mean() / truth.abs().mean())
    assert loss.parts[1].item() == pytest.approx(sum(w * d.item() for w, d in zip(expected, levels, strict=True)))


def pattern(side, period, amplitude=1.0):
    """Waves along both axes, (1, 1, side, side)."""
    wave = torch.sin(torch.arange(side) * 2 * torch.pi / period + 0.3)
    return (amplitude * wave[:, None] * wave)[None, None]


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: x.roll(2, 3), lambda x: x.roll((1, 3), (2, 3))])
def test_texture_is_the_same_wherever_it_lies(change):
    """A pattern that is moved, or has the other sign, is worse than none at all by pixels, but as much detail."""
    truth = pattern(64, 4) * torch.tensor([1.0, 0.1])[:, None, None]  # each channel counts in its own unit
    moved, nothing = change(truth), torch.zeros_like(truth)
    assert F.l1_loss(moved, truth) >= F.l1_loss(nothing, truth)
    assert texture_distance(moved, truth) < 0.03
    assert texture_distance(nothing, truth) > 3


def test_texture_distance_is_that_of_logarithms():
    """Times e, or divided by it, detail well above the floor is 1 away."""
    truth = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert texture_distance(truth * torch.e, truth).item() == pytest.approx(1, abs=0.03)
    assert texture_distance(truth / torch.e, truth).item() == pytest.approx(1, abs=0.06)


def test_texture_distance_does_not_magnify_rounding():
    """Of a channel in which nothing varies."""
    truth = torch.full((2, 3, 40, 40), 0.3)
    found = truth.clone().requires_grad_(True)
    distance = texture_distance(found, truth)
    distance.backward()
    assert distance == 0 and found.grad.abs().max() < 1


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9])
def test_texture_of_features_of_few_places(side):
    """Smaller than a window, they are one window, whose detail can be told by hand where the mean is over all."""
    truth = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(1))
    assert texture_distance(-truth, truth) == 0
    assert texture_distance(truth * 2, truth).isfinite()
    if side == 3:
        fine = (truth - truth.mean((2, 3), keepdim=True)).abs().mean((2, 3)) / truth.std((2, 3), correction=0)
        expected = ((2 * fine + 0.02) / (fine + 0.02)).log().mean()
        torch.testing.assert_close(texture_distance(truth * 2, truth), expected)


def test_local_contrast_knows_neither_brightness_nor_contrast():
    image, contrast = images(2, 3, 24, 20), LocalContrast()
    torch.testing.assert_close(contrast(image * 0.5 + 0.4), contrast(image * 0.5), atol=1e-5, rtol=1e-4)
    ratio = contrast(image).norm() / contrast(image * 0.5).norm()
    assert 1 < ratio < 1.05  # it is strong: σ is about 0.5, beside 0.016
    assert contrast(torch.full((1, 3, 4, 4), 0.7)).abs().max() < 1e-4


def test_local_contrast_shows_a_faint_pattern_in_a_flat_area_as_an_edge():
    """A checkerboard of ±4 grey levels of 255 beside an edge of 128 levels."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    checkerboard = (((x + y) % 2) * 2 - 1) * 8 / 255
    edge = torch.where(x < 16, -0.5, 0.5)
    faint, strong = (LocalContrast()(image.expand(1, 3, 32, 32)).abs().max() for image in (checkerboard, edge))
    assert faint.item() == pytest.approx(8 / (8 + 4), rel=0.01)  # its amplitude and σ are 8/255; `least` is 4/255
    assert 0.5 * strong < faint < 2 * strong


def test_contrast_is_there_for_a_pixel_head_alone():
    assert not [m for m in Discriminator([4], 4).modules() if isinstance(m, LocalContrast)]
    heads = Discriminator([4], 1, pixels=True)
    features, image = [images(1, 4, 5, 5)], images(1, 3, 21, 16)
    assert [tuple(logits.shape) for logits in heads(features, image, image)] == [(1, 1, 5, 5), (1, 1, 5, 4)]
    assert not [name for name in heads.state_dict() if "kernel" in name]


def test_views_move_and_mirror_images(distillation):
    image = torch.arange(5.0).expand(1, 1, 5, 5)
    rows, columns = torch.arange(5)[None], torch.tensor([[1, 0, 1, 2, 3]])  # moved by one, reflected at the border
    assert torch.equal(seen(image, rows, columns)[0, 0, 0], torch.tensor([1.0, 0.0, 1.0, 2.0, 3.0]))
    generator = torch.Generator().manual_seed(0)
    views = draw_view(200, 9, 2, True, generator)
    straight = {tuple(8 - abs(8 - abs(n + move)) for n in range(9)) for move in range(-2, 3)}
    assert {tuple(view) for view in views.tolist()} == straight | {view[::-1] for view in straight}
    assert {tuple(view) for view in draw_view(200, 9, 2, False, generator).tolist()} == straight
    assert torch.equal(draw_view(3, 6, 0, False, generator), torch.arange(6).expand(3, 6))
    assert draw_view(50, 3, 8, True, generator).unique().tolist() == [0, 1, 2]  # an image smaller than the move


def test_blur_keeps_flat_areas_and_removes_a_pattern_of_two_pixels():
    flat, stripes = torch.full((1, 2, 8, 8), 0.3), torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8)
    assert torch.allclose(Blur()(flat), torch.full((1, 2, 4, 4), 0.3))
    assert Blur()(stripes)[..., 1:-1].abs().max() < 1e-6


def test_the_head_for_pixels_sees_the_image_its_local_contrast_and_the_lr_image():
    head, given = PixelHead(4), []
    head.layers[0].register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    image, lr_up = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    assert head(image, lr_up).shape == (2, 1, 4, 4)
    assert torch.equal(given[0], torch.cat([image, LocalContrast()(opponent(image)), lr_up], dim=1))


def test_opponent_colours_tell_a_dot_from_grey_as_lightness_does_not():
    """Grey has no colour; red and cyan of equal lightness differ in the first of the two colours, by hand."""
    grey = images(1, 1, 4, 4).expand(1, 3, 4, 4)
    lightness, *colours = opponent(grey).unbind(1)
    torch.testing.assert_close(lightness, grey[:, 0])
    assert max(colour.abs().max() for colour in colours) < 1e-6
    red, cyan = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((0.6, -0.3, -0.3), (-0.6, 0.3, 0.3)))
    told = [opponent(colour).flatten().tolist() for colour in (red, cyan)]
    assert told[0] == pytest.approx([0, 0.9, 0.45]) and told[1] == pytest.approx([0, -0.9, -0.45])
