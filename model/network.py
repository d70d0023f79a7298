"""The whole network: LR encoder, conditioning pyramid, UNet encoder and decoder."""

import torch
from torch import nn

from model.blocks import EqualConv2d, EqualLinear, NoiseLevelEmbedding
from model.conditioning import Condition, ConditioningPyramid, LREncoder
from model.schedule import NoiseSchedule
from model.unet import UNetDecoder, UNetEncoder


class Network(nn.Module):
    """Predicts the noise in x_t (or v, see `prediction`), given the LR image and the noise level γ = sqrt(ᾱ_t).

    `schedule` is the noise schedule that sampling follows, `prediction` is "epsilon" or "v".
    """

    def __init__(
        self,
        in_channel=6,  # LR feature and noisy image
        out_channel=3,  # the prediction
        inner_channel=64,  # channels of the finest level, and of the noise embedding
        norm_groups=32,  # of every GroupNorm
        channel_multiplier=(1, 2, 4, 8, 8),  # channels of each level, in inner_channel
        attn_res=(16,),  # nominal resolutions, image_size / 2^level, at which blocks attend
        res_blocks=2,  # of a level of the encoder; the decoder has one more
        dropout=0.0,
        image_size=128,
        lr_encoder=None,  # {"n_resblocks": 16, "n_feats": 64}
        schedule=None,
        prediction="epsilon",
    ):
        super().__init__()
        channels = [inner_channel * m for m in channel_multiplier]
        attention = [image_size // 2**level in attn_res for level in range(len(channels))]
        shape = (inner_channel, channels, attention, res_blocks, norm_groups, dropout)
        self.lr_encoder = LREncoder(**(lr_encoder or {}))
        self.conditioning = ConditioningPyramid(inner_channel, channels)
        self.embedding = NoiseLevelEmbedding(inner_channel)
        self.encoder = UNetEncoder(in_channel, *shape)
        self.decoder = UNetDecoder(out_channel, *shape)
        self.schedule = schedule
        self.prediction = prediction
        self.encoder_change = None  # what `model.calibration` measured of these weights, if it did: for auto:N

    def condition(self, lr_image, size, scale=1.0):
        """Everything that does not depend on the noise level, computed once per image.

        lr_image (B, 3, h, w) in [-1, 1]; size (H, W), the target; scale p in [0, 1], a float or (B,), 1 for the full
        size that the network was trained for (`relative_scale`).
        """
        scales = lr_image.new_ones(len(lr_image), 1)
        scales = scales * (scale.view(-1, 1) if isinstance(scale, torch.Tensor) else scale)  # copies no float to a GPU
        lr_feature = self.lr_encoder(lr_image, tuple(size))
        return Condition(lr_feature, *self.conditioning(lr_feature, scales))

    def encode(self, x_t, noise_level, condition):
        """x_t (B, 3, H, W) at noise level (B,) -> EncoderState (skips and bottleneck)."""
        return self.encoder(torch.cat([condition.lr_feature, x_t], dim=1), self.embedding(noise_level))

    def decode(self, state, noise_level, condition):
        """EncoderState of B images -> prediction (B, 3, H, W) for noise_level (B,).

        A noise_level (K, B) decodes K steps of the same B states as one batch: -> (K, B, 3, H, W).
        """
        prediction = self.decoder(state, self.embedding(noise_level.flatten()), condition.gains, condition.shifts)
        return prediction.unflatten(0, noise_level.shape)

    def forward(self, x_t, noise_level, condition):
        return self.decode(self.encode(x_t, noise_level, condition), noise_level, condition)

    def prunable_parameters(self):
        """Name -> parameter of all that sparse training may prune: weights of convolutions and linear layers."""
        return {
            f"{name}.weight": module.weight
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }


def build_network(model, initialised=True):
    """The network that config["model"] describes, freshly initialised unless weights are to be loaded anyway.

    Its weights are channels-last, which makes its activations so: twice as fast on CPUs and on GPUs.
    """
    network = Network(
        **{key: value for key, value in model["unet"].items() if value is not None},
        image_size=model["diffusion"]["image_size"],
        lr_encoder=model.get("lr_encoder"),
        schedule=NoiseSchedule(model["beta_schedule"]["val"]),
        prediction=model["diffusion"].get("prediction", "epsilon"),
    )
    if initialised:
        initialise(network)
    return network.to(memory_format=torch.channels_last)


@torch.no_grad()
def initialise(network):
    """Orthogonal weights and zero biases, as the published models were trained with; N(0, 1) in equalised layers."""
    for module in network.modules():
        if isinstance(module, EqualConv2d | EqualLinear):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for scale1 in network.conditioning.scale1:
        nn.init.ones_(scale1.bias)  # with s1 = s2 = 0, as where a mask takes both weights, the modulation would vanish
