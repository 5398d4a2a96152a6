"""Sinusoidal positions: how a temporal attention knows which frame is which (paper section 4.2)."""

import math

import torch


def sinusoidal_positions(num_positions: int, channels: int) -> torch.Tensor:
    """The position table, float32 of shape (1, num_positions, channels).

    Row ``n`` holds ``sin(n * w_k)`` in even and ``cos(n * w_k)`` in odd channels, with
    ``w_k = 10000 ** (-2k / channels)``. A row does not depend on ``num_positions``, so a 24-row table is
    the start of a 32-row one. Same in the official code and in diffusers.
    """
    if channels % 2:
        raise ValueError(f"sinusoidal positions need an even number of channels, got {channels}")
    frequency = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angle = torch.arange(num_positions)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[None]
