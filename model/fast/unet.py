"""The halves of the UNet, whose blocks share one product of the noise embedding."""

from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from model.fast.blocks import noise_shifts
from model.unet import EncoderState, UNetDecoder, UNetEncoder


class FastUNetEncoder(UNetEncoder):
    def forward(self, x: Tensor, embedding: Tensor) -> EncoderState:
        shifts = noise_shifts([*chain(*self.levels), self.mid1, self.mid2], embedding)
        return super().forward(x, shifts)  # type: ignore[arg-type]  # which each FastResidualBlock takes


class FastUNetDecoder(UNetDecoder):
    """EncoderState of B images, K·B noise embeddings, gains and shifts of B images -> prediction (K·B, 3, H, W).

    Whatever does not depend on the step yet, or never, stays that of B images.
    """

    def forward(
        self, state: EncoderState, embedding: Tensor, gains: Sequence[Tensor], shifts: Sequence[Tensor]
    ) -> Tensor:
        noise = noise_shifts(chain(*self.levels), embedding)
        return super().forward(state, noise, gains, shifts)  # type: ignore[arg-type]
