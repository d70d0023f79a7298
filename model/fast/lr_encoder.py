"""The LR encoder with one sweep after each convolution: bias, and activation or residual."""

from torch import Tensor

from model.conditioning import LREncoder
from model.fast.blocks import convolved


class FastLREncoder(LREncoder):
    def features(self, lr_image: Tensor) -> Tensor:  # (B, 3, h, w) -> (B, F, h, w)
        head = self.head(lr_image)
        h = head
        for block in self.blocks:
            first, second = block[0], block[2]  # type: ignore[index]  # of a Sequential
            h = convolved(second, convolved(first, h, activation="relu"), h)
        return convolved(self.body_end, h, head)
