"""The whole network: LR encoder, conditioning pyramid, UNet encoder and decoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.blocks import NoiseLevelEmbedding
from model.conditioning import Condition, ConditioningPyramid, LREncoder
from model.schedule import NoiseSchedule
from model.unet import EncoderState, UNetDecoder, UNetEncoder


class Network(nn.Module):
    """Predicts the noise in x_t (or v, see `prediction`), given the LR image and the noise level γ = sqrt(ᾱ_t).

    `schedule` is the noise schedule that sampling follows, `prediction` is "epsilon" or "v".
    """

    def __init__(
        self,
        in_channel: int = 6,  # LR feature and noisy image
        out_channel: int = 3,  # the prediction
        inner_channel: int = 64,  # channels of the finest level, and of the noise embedding
        norm_groups: int = 32,  # of every GroupNorm; 0: there is none
        channel_multiplier: Sequence[int] = (1, 2, 4, 8, 8),  # channels of each level, in inner_channel
        attn_res: Sequence[int] = (16,),  # nominal resolutions, image_size / 2^level, at which blocks attend
        res_blocks: int = 2,  # of a level of the encoder; the decoder has one more
        dropout: float = 0.0,
        mid_attention: bool = True,  # whether the bottleneck attends; without any attention, all but norms is local
        image_size: int = 128,
        lr_encoder: Mapping[str, int] | None = None,  # {"n_resblocks": 16, "n_feats": 64, "sub_pixel": 1}
        *,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
    ) -> None:
        super().__init__()
        channels = [inner_channel * m for m in channel_multiplier]
        attention = [image_size // 2**level in attn_res for level in range(len(channels))]
        shape = (inner_channel, channels, attention, res_blocks, norm_groups, dropout)
        self.lr_encoder = LREncoder(**(lr_encoder or {}))
        self.conditioning = ConditioningPyramid(inner_channel, channels)
        self.embedding = NoiseLevelEmbedding(inner_channel)
        self.encoder = UNetEncoder(in_channel, *shape, mid_attention)
        self.decoder = UNetDecoder(out_channel, *shape)
        self.schedule = schedule
        self.prediction = prediction

    def condition(self, lr_image: Tensor, size: Sequence[int], scale: float | Tensor = 1.0) -> Condition:
        """Everything that does not depend on the noise level, computed once per image.

        lr_image (B, 3, h, w) in [-1, 1]; size (H, W), the target; scale p in [0, 1], a float or (B,), 1 for the full
        size that the network was trained for (`relative_scale`).
        """
        p = lr_image.new_ones(len(lr_image), 1)  # (B, 1)
        p = p * (scale.view(-1, 1) if isinstance(scale, Tensor) else scale)  # copies no float to a GPU
        lr_feature = self.lr_encoder(lr_image, size)  # (B, 3, H, W)
        return Condition(lr_feature, *self.conditioning(lr_feature, p))

    def encode(self, x_t: Tensor, noise_level: Tensor, condition: Condition) -> EncoderState:
        """x_t (B, 3, H, W) at noise level (B,) -> EncoderState (skips and bottleneck)."""
        x = torch.cat([condition.lr_feature, x_t], dim=1)  # (B, 6, H, W)
        return self.encoder(x, self.embedding(noise_level))

    def decode(self, state: EncoderState, noise_level: Tensor, condition: Condition) -> Tensor:
        """EncoderState of B images -> prediction (B, 3, H, W) for noise_level (B,).

        A noise_level (K, B) decodes K steps of the same B states as one batch: -> (K, B, 3, H, W).
        """
        images = noise_level.numel()  # K·B
        state, condition = state.repeated(images), condition.repeated(images)
        prediction = self.decoder(state, self.embedding(noise_level.flatten()), condition.gains, condition.shifts)
        return prediction.unflatten(0, noise_level.shape)

    def forward(self, x_t: Tensor, noise_level: Tensor, condition: Condition) -> Tensor:
        """x_t (B, 3, H, W) at noise_level γ (B,), under the condition of its images -> prediction (B, 3, H, W)."""
        return self.decode(self.encode(x_t, noise_level, condition), noise_level, condition)

    def prunable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of all that sparse training may prune: weights of convolutions and linear layers."""
        return {
            f"{name}.weight": module.weight  # type: ignore[misc]  # a Parameter
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
