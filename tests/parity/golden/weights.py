"""Deterministic weights by name: the same recipe fills the reference model and any other, so no weights are stored.

`fill(shapes, seed)` returns {name: float32 array} for an MMDetection-style state dict, given {name: shape}.
Every array depends on its own name, its shape and the seed alone.  RandomState is NumPy's frozen legacy stream,
so the values are the same on every machine and NumPy version.
"""

import zlib

import numpy as np

# variance gain over 1/fan_in, by the first part of a name that matches; 2.0 (He) keeps the scale through a ReLU
GAINS = (
    ("conv_offset", 0.05),
    ("neck.", 0.2),
    ("rpn_cls", 6.0),
    ("rpn_reg", 0.3),
    ("fc_cls", 9.0),
    ("fc_reg", 0.3),
    ("semantic_head.lateral_convs", 0.4),
    ("semantic_head.conv_embedding", 1.0),
    ("conv_res", 1.0),
)


def fill_one(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0x7FFFFFFF)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "running_mean":
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    x = rng.standard_normal(shape)
    if leaf == "bias":
        return (0.05 * x).astype(np.float32)
    if len(shape) == 1:  # batch-norm scale: the last one of a residual block is small, so depth does not blow up
        lo, hi = (0.1, 0.3) if ".bn3." in name else (0.8, 1.2)
        return rng.uniform(lo, hi, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    if "deconv" in name or "upsample" in name:  # transposed convolution: (in, out, kh, kw)
        fan_in = shape[0]
    gain = next((g for part, g in GAINS if part in name), 2.0)
    return (x * np.sqrt(gain / fan_in)).astype(np.float32)


def fill(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    return {name: fill_one(name, tuple(shape), seed) for name, shape in shapes.items()}
