"""Number formats of the forward pass, and the scaling of gradients that fp16 needs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from htc.config.schema import Precision
from htc.errors import UserError

DTYPES = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}

Autocast = Callable[[], AbstractContextManager[Any]]


def autocast_of(precision: Precision, device: torch.device) -> Autocast:
    """Return a function that makes the autocast context of the network. Raises UserError for fp16 without a GPU."""
    if precision is Precision.fp32:
        return nullcontext
    if precision is Precision.fp16 and device.type == "cpu":
        raise UserError("precision=fp16 needs a GPU: use precision=bf16 or precision=fp32 on a CPU.")
    return lambda: torch.autocast(device.type, dtype=DTYPES[precision])


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the gradient scaler for fp16; for other precisions, one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision is Precision.fp16)
