"""Distillation: a student that samples in few calls, taught by pixels, by its teacher and by a discriminator.

loss = pixel_weight · |ŷ - y| + feature_weight · |f(ŷ) - f(y)| + texture_weight · |log d(ŷ) - log d(y)|
       + perceptual_weight · |g(ŷ) - g(y)| + adversarial_weight · (-D(ŷ)) + mirror_weight · |ŷ - ŷ'|
       + pattern_weight · |p(ŷ - y)|

f are the features of the teacher's frozen encoder, of result and truth under the same noise, and d is the local amount
of detail in the finest of them. g are the features of a perceptual network, where there is one. The discriminator D is
a set of small heads on f and g (adversarial diffusion distillation, Sauer et al. 2023, 2024; DMD2, Yin et al. 2024).
ŷ' is what the student makes of the mirror image, mirrored back: where the two differ, the student guesses. p is the
fixed pattern of the batch: what all its errors have in common from LR pixel to LR pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from model.distillation.discriminator import Discriminator, discriminator_loss, generator_loss
from model.distillation.fixed_pattern import PERIODS, fixed_pattern
from model.distillation.perceptual_network import PerceptualNetwork
from model.distillation.student import StudentChain
from model.distillation.teacher import TeacherFeatures
from model.resampling import resample

PERCEPTUAL_LEVELS = (0.0, 0.6, 0.2, 0.1, 0.1)  # weights of a perceptual network's levels, the finest first
LEAST_DETAIL = 0.02  # deviations of a feature
Shown = tuple[list[Tensor], Tensor, Tensor]  # to the discriminator: features, the image, the up-sampled LR image


class DistillationLoss(nn.Module):
    """The objective of a step as a module, so that one wrapper (CUDA graphs) sees the whole forward pass.

    The discriminator's own loss is part of the sum. The gradients stay apart: its loss reaches nothing but the
    discriminator, and the others nothing but the student. So one backward pass serves both.
    """

    PARTS = ("pixels", "features", "texture", "perceptual", "adversarial", "discriminator", "mirror", "pattern")
    parts: Tensor  # (8,), the value of each of the PARTS in the last call
    level_weights: Tensor  # (L + 1,), of the teacher's L levels and the bottleneck, with mean 1

    def __init__(
        self,
        student: StudentChain,
        teacher: TeacherFeatures,
        discriminator: Discriminator,
        feature_weight: float = 1.0,
        adversarial_weight: float = 0.1,
        texture_weight: float = 0.0,
        level_weights: Sequence[float] = (),  # in proportion, the finest level first; none: all alike
        perceptual: PerceptualNetwork | None = None,  # frozen, in evaluation mode
        perceptual_weight: float = 0.0,
        perceptual_heads: bool = True,  # whether the discriminator is shown its features
        mirror_weight: float = 0.0,
        pattern_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.discriminator = student, teacher, discriminator
        self.feature_weight, self.adversarial_weight = feature_weight, adversarial_weight
        self.texture_weight = texture_weight
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.perceptual_heads = perceptual_heads
        self.mirror_weight, self.pattern_weight = mirror_weight, pattern_weight
        device = student.levels.device
        weights = torch.tensor(level_weights or [1.0] * len(teacher.channels), dtype=torch.float32, device=device)
        self.register_buffer("level_weights", weights / weights.mean(), persistent=False)
        self.register_buffer("parts", torch.zeros(len(self.PARTS), device=device), persistent=False)

    def forward(
        self,
        lr: Tensor,  # (B, 3, h, w) in [-1, 1]
        hr: Tensor,  # (B, 3, H, W) in [-1, 1]
        noise: Tensor,  # (B, 3, H, W), from which the student starts
        teacher_noise: Tensor,  # (B, 3, H, W), under which the teacher looks at results and truths
        teacher_noise_level: Tensor,  # (B,), its γ
        rows: Tensor,  # (B, H), the order in which the judges see the rows of an image, see `draw_view`
        columns: Tensor,  # (B, W)
        scale: float,  # p in [0, 1]
        pixel_weight: float = 1.0,
    ) -> Tensor:
        """The loss, a scalar."""
        lr_up = resample(lr, hr.shape[2:])
        result = self.student(lr, lr_up, noise, scale)
        pixels, mirror = F.l1_loss(result, hr), self.mirror_distance(result, lr, lr_up, noise, scale)
        pattern = self.pattern_size(result - hr, lr.shape[2:])
        taught = pixel_weight * pixels + self.mirror_weight * mirror + self.pattern_weight * pattern
        if not self.judged:  # faithful: nobody judges
            none = torch.zeros_like(pixels)
            self.parts.copy_(torch.stack([pixels, none, none, none, none, none, mirror, pattern]).detach())
            return taught

        with torch.no_grad():
            lr_feature = seen(self.teacher.lr_encoder(lr, hr.shape[2:]), rows, columns)
        result, hr, lr_up = (seen(image, rows, columns) for image in (result, hr, lr_up))
        found, truth = self.teacher_sees(result, hr, lr_feature, teacher_noise, teacher_noise_level)
        features, texture = self.compare(found, truth)
        perceptual, in_result, in_truth = self.perceive(result, hr)
        adversarial, own = self.judge(([*found, *in_result], result, lr_up), ([*truth, *in_truth], hr, lr_up))
        parts = [pixels, features, texture, perceptual, adversarial, own, mirror, pattern]
        self.parts.copy_(torch.stack(parts).detach())
        taught = taught + self.feature_weight * features + self.texture_weight * texture
        return taught + self.perceptual_weight * perceptual + self.adversarial_weight * adversarial + own

    @property
    def judged(self) -> bool:
        """Whether the teacher, a perceptual network or the discriminator teaches."""
        perceptual = self.perceptual is not None and self.perceptual_weight
        return any((self.feature_weight, self.texture_weight, perceptual, self.adversarial_weight))

    def mirror_distance(self, result: Tensor, lr: Tensor, lr_up: Tensor, noise: Tensor, scale: float) -> Tensor:
        """How far the result is from what the student makes of the mirror image, which has no gradient."""
        if not self.mirror_weight:
            return result.new_zeros((), dtype=torch.float32)
        with torch.no_grad():
            mirrored = self.student(lr.flip(3), lr_up.flip(3), noise, scale)
        return F.l1_loss(result, mirrored.flip(3))

    def pattern_size(self, error: Tensor, lr_size: Sequence[int]) -> Tensor:
        """The mean size of the fixed pattern of a batch's errors.

        It is 0 where LR has fewer than PERIODS pixels on a side, or HR is no whole multiple of it.
        """
        period = error.shape[2] // lr_size[0]
        whole = tuple(error.shape[2:]) == (period * lr_size[0], period * lr_size[1])
        if not (self.pattern_weight and whole and min(lr_size) >= PERIODS):
            return error.new_zeros((), dtype=torch.float32)
        with torch.autocast(error.device.type, enabled=False):  # half precision would round it away
            return fixed_pattern(error.float(), period).abs().mean()

    def teacher_sees(
        self, result: Tensor, hr: Tensor, lr_feature: Tensor, noise: Tensor, noise_level: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The teacher's features of result and truth, each level in units of the mean size of the truth's."""
        with torch.no_grad():
            truth = self.teacher(hr, lr_feature, noise, noise_level)
        return in_units(self.teacher(result, lr_feature, noise, noise_level), truth)

    def compare(self, found: list[Tensor], truth: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of result and truth -> their weighted distance, and the distance of the finest ones' texture."""
        distances = torch.stack([F.l1_loss(f.float(), t.float()) for f, t in zip(found, truth, strict=True)])
        texture = texture_distance(found[0], truth[0]) if self.texture_weight else distances.new_zeros(())
        return (self.level_weights * distances).mean(), texture

    def perceive(self, result: Tensor, hr: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The distance of result and truth in the perceptual network, and its features of both for the discriminator.

        The finest features are left out of the distance: compared place by place, they would ask for smooth images. The
        next ones count most: their gradient is the most like that of other networks which compare images as people do.
        """
        if self.perceptual is None:
            return result.new_zeros((), dtype=torch.float32), [], []
        with torch.no_grad():
            truth = self.perceptual.features(hr)
        found, truth = in_units(self.perceptual.features(result), truth)
        levels = zip(PERCEPTUAL_LEVELS, found, truth, strict=True)
        distance = torch.stack([weight * F.l1_loss(f.float(), t.float()) for weight, f, t in levels if weight]).sum()
        return (distance, found, truth) if self.perceptual_heads else (distance, [], [])

    def judge(self, fake: Shown, real: Shown) -> tuple[Tensor, Tensor]:
        """What the discriminator is shown of result and truth -> the student's adversarial loss, and its own."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        adversarial = generator_loss(functional_call(self.discriminator, frozen, fake))
        features, result, lr_up = fake
        logits = self.discriminator([f.detach() for f in features], result.detach(), lr_up)
        return adversarial, discriminator_loss(self.discriminator(*real), logits)


def in_units(found: list[Tensor], truth: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Features of result and truth, those of each level divided by the mean size of the truth's."""
    units = [f.abs().mean(dtype=torch.float32).clamp(min=1e-6).to(f.dtype) for f in truth]
    found, truth = ([f / unit for f, unit in zip(levels, units, strict=True)] for levels in (found, truth))
    return found, truth


def texture_distance(found: Tensor, truth: Tensor) -> Tensor:
    """How far apart the local amounts of detail in features (B, C, h, w) are, wherever exactly the detail lies.

    The mean over channels and places of |log a - log b|, where a and b are the amounts in result and truth. Compared
    place by place, no texture is nearer to the truth than texture in a slightly wrong place, so that pixels and
    features alone teach smooth images.
    """
    unit = truth.float().std((0, 2, 3), correction=0, keepdim=True).clamp(min=1e-3)  # less is rounding
    return F.l1_loss(log_detail(found.float() / unit), log_detail(truth.float() / unit))


def log_detail(features: Tensor) -> Tensor:
    """Features (B, C, h, w) in units of their deviation -> log of the local amount of detail, (B, C, h', w').

    Detail is what the mean over 5×5 places leaves out. Its amount is its mean size in windows of 8×8 places, four
    apart; features of fewer places are one window. Amounts far below `LEAST_DETAIL` are alike.
    """
    fine = features - F.avg_pool2d(features, 5, stride=1, padding=2, count_include_pad=False)
    height, width = features.shape[2:]
    amount = F.avg_pool2d(fine.abs(), (min(height, 8), min(width, 8)), stride=4)
    return (amount + LEAST_DETAIL).log()


def seen(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The image (B, C, H, W) with its rows (B, H) and columns (B, W) in another order."""
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    return image.gather(3, columns[:, None, None, :].expand_as(image))


def draw_view(images: int, side: int, most: int, mirrored: bool, generator: torch.Generator) -> Tensor:
    """The order (images, side) of the lines of each image: moved by up to `most` lines and reflected at the border, and
    where `mirrored`, half of the images the other way round.

    Judges that see images in the same place each time would let through a pattern that follows their own grid.
    """
    moves = torch.randint(-most, most + 1, (images, 1), generator=generator)
    lines = (torch.arange(side) + moves).abs()
    lines = torch.where(lines >= side, 2 * (side - 1) - lines, lines).clamp(0, side - 1)
    turned = torch.rand(images, 1, generator=generator) < 0.5
    return torch.where(turned, lines.flip(1), lines) if mirrored else lines
