"""Pasting of predicted masks, given in the frames of their boxes, into the image, in COCO's run-length encoding."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from htc.structures import RLE


def encode_masks(mask_probs: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> list[RLE]:
    """Paste soft masks into an image, threshold them and encode the result.

    Each mask is resampled bilinearly at the pixel centres inside its box, with zeros beyond its border (as
    `_do_paste_mask` of MMDetection's FCNMaskHead, `align_corners=False`). Masks are pasted one at a time and only
    where they can differ from zero, so memory grows with the largest box, not with the image or the number of masks.

    Args:
        mask_probs: [n, m, m] probabilities in 0..1.
        boxes: [n, 4] xyxy in pixels of the image; may reach beyond it. A box without area has an empty mask.
        height, width: size of the image in pixels.
        threshold: a pixel belongs to the mask if its probability is at least this; must be above 0.

    Returns:
        n encoded masks of the image.
    """
    corners = boxes.detach().float().cpu().tolist()
    boxes = boxes.detach().float()
    mask_probs = mask_probs.detach().float()
    encoded = []
    for probs, box, (x0, y0, x1, y1) in zip(mask_probs, boxes, corners, strict=True):
        # Interpolation with the zeros outside the mask reaches half a mask cell beyond the box.
        margin_x = 0.5 * (x1 - x0) / probs.shape[1] + 1
        margin_y = 0.5 * (y1 - y0) / probs.shape[0] + 1
        if x1 > x0 and y1 > y0:
            columns = _pixels(x0 - margin_x, x1 + margin_x, width)
            rows = _pixels(y0 - margin_y, y1 + margin_y, height)
        else:
            columns = rows = range(0)
        if len(columns) == 0 or len(rows) == 0:
            encoded.append(encode_region(np.zeros((0, 0), dtype=bool), 0, 0, height, width))
            continue
        inside = _paste_region(probs, box, rows, columns) >= threshold
        encoded.append(encode_region(inside.cpu().numpy(), columns.start, rows.start, height, width))
    return encoded


def encode_region(region: np.ndarray, left: int, top: int, height: int, width: int) -> RLE:
    """Encode a mask of an image from a region that contains all its pixels, without building the full-size mask.

    Args:
        region: [h, w] bool, the mask inside the region; the region must lie inside the image.
        left, top: position of the region's first pixel in the image.
        height, width: size of the image in pixels.
    """
    rows, columns = region.shape
    # COCO counts pixels down the columns. With an empty pixel above and below, every run starts and ends in its column.
    padded = np.zeros((columns, rows + 2), dtype=np.int8)
    padded[:, 1:-1] = region.T
    steps = np.diff(padded, axis=1)
    start_column, start_row = np.nonzero(steps == 1)
    end_column, end_row = np.nonzero(steps == -1)
    starts = (start_column + left) * height + start_row + top
    ends = (end_column + left) * height + end_row + top
    # A run that ends with its column is joined with a run that begins at the top of the next column.
    separate = starts[1:] != ends[:-1]
    starts = starts[np.concatenate([np.ones(min(1, len(starts)), dtype=bool), separate])]
    ends = ends[np.concatenate([separate, np.ones(min(1, len(ends)), dtype=bool)])]
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and counts[-1] == 0:
        counts = counts[:-1]
    compressed = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return RLE(size=[height, width], counts=compressed["counts"].decode("ascii"))


def _pixels(low: float, high: float, size: int) -> range:
    """Return the pixels of an image axis of length `size` whose centres can lie between `low` and `high`."""
    return range(min(max(int(np.floor(low)), 0), size), max(min(int(np.ceil(high)), size), 0))


def _paste_region(probs: Tensor, box: Tensor, rows: range, columns: range) -> Tensor:
    """Resample one mask [m, m] in the frame of `box` [4] at the pixel centres of `rows` and `columns`, as [h, w]."""
    x0, y0, x1, y1 = box
    x = torch.arange(columns.start, columns.stop, device=probs.device, dtype=torch.float32) + 0.5
    y = torch.arange(rows.start, rows.stop, device=probs.device, dtype=torch.float32) + 0.5
    x = (x - x0) / (x1 - x0) * 2 - 1
    y = (y - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack([x[None, :].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)
    return F.grid_sample(probs[None, None], grid[None], align_corners=False)[0, 0]
