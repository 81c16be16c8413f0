"""Deterministic weights by name, for the reference and for any other model, so that no weights are stored.

`fill(shapes, seed)` returns {name: array} for an MMDetection-style state dict, given {name: shape}. Each array depends
only on its name, its shape and the seed. RandomState is NumPy's frozen legacy generator, so the values are the same on
every machine and with every NumPy version.
"""

import zlib

import numpy as np

# Variance in units of 1 / fan_in, by the first of these parts that a name contains. The default, 2.0 (He), keeps the
# scale through a ReLU.
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
    """Return the values of one tensor, float32, or int64 for a batch counter."""
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
    if len(shape) == 1:
        # The scale of a batch norm; it is small in the last one of a residual block, so that activations stay bounded.
        lo, hi = (0.1, 0.3) if ".bn3." in name else (0.8, 1.2)
        return rng.uniform(lo, hi, shape).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    if "deconv" in name or "upsample" in name:
        # Transposed convolutions have the shape (in, out, height, width).
        fan_in = shape[0]
    gain = next((g for part, g in GAINS if part in name), 2.0)
    return (x * np.sqrt(gain / fan_in)).astype(np.float32)


def fill(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return the values of all tensors by name."""
    return {name: fill_one(name, tuple(shape), seed) for name, shape in shapes.items()}
