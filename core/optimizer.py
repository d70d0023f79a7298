"""The optimiser and its learning rate."""

import math

import torch


def build_optimizer(parameters, options, device):
    """`train.optimizer` of a config -> Adam, AdamW or SGD over the parameters, or groups of them."""
    kind, lr, decay = options.type, options.lr, options.weight_decay
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=options.momentum, weight_decay=decay)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    return adam(parameters, lr=lr, betas=tuple(options.betas), weight_decay=decay, fused=device.type == "cuda")


def learning_rate(step, train):
    """The learning rate of a step (from 0): linear warm-up, then constant, or a cosine to 0 at the last step."""
    lr = train.optimizer.lr
    if step < train.warmup:
        return lr * (step + 1) / train.warmup
    if train.lr_schedule == "constant":
        return lr
    progress = (step - train.warmup) / max(train.n_iter - train.warmup, 1)
    return lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
