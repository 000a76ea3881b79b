"""How the time of a layer may grow with its widths: terms of which a fit keeps the ones that a device shows.

Devices compute in blocks (16 channels in ONNX Runtime and oneDNN on AVX-512, 8 on AVX2, 8 to 64 on GPUs), so a time is
a staircase; and they have a slow way for channel counts that their fast layout does not take (ONNX Runtime: input
channels that are no multiple of 4, or fewer than one block). Every term is at least 0, and so is its coefficient.
"""

from __future__ import annotations

import numpy as np

from objectives.latency.sites import Site
from objectives.products import Floats

BLOCK = 16  # channels that are computed together
LANE = 4  # channels that a fast layout takes at least
NUM_TERMS = 21


def terms(sites: tuple[Site, ...], reads: Floats, makes: Floats) -> Floats:
    """Terms [B, L, F] of `L` layers that read and make so many channels [B, L]."""
    work, pixels, weight = (np.array([getattr(s, a) for s in sites]) for a in ("work", "pixels", "weight"))
    depthwise = np.array([s.kind == "depthwise" for s in sites])
    i, o = reads, makes
    across = np.where(depthwise, 1.0, i)  # what each output channel reads
    macs = across * o * work
    i_up, o_up = np.ceil(i / BLOCK) * BLOCK, np.ceil(o / BLOCK) * BLOCK
    across_up = np.where(depthwise, 1.0, i_up)
    small = (i < BLOCK) & ~depthwise
    odd = (i % LANE != 0) & ~small
    rough_in, rough_out = i % BLOCK != 0, o % BLOCK != 0
    reading, writing = i * pixels, o * pixels
    found = [
        np.ones_like(i), macs, across_up * o_up * work, across * o_up * work, writing, reading * ~depthwise,
        across * o * weight,
        odd * 1.0, odd * macs, odd * reading, odd * writing,
        small * 1.0, small * macs, small * reading, small * writing,
        rough_in * macs, rough_in * reading, rough_out * macs, rough_out * writing, rough_in * 1.0, rough_out * 1.0,
    ]  # fmt: skip
    return np.stack(np.broadcast_arrays(*found), axis=-1)
