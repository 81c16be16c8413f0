"""The results of a run in words, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from htc.runs.json_values import mapping, number


def ap_summary(results: Mapping[str, Any]) -> str:
    """Return `box AP 31.2, mask AP 28.5` in percent, with a dash where there is no value.

    results: the content of results.json, or a line of metrics.jsonl; both may be damaged.
    """
    values = (
        (word, number(mapping(results.get(kind)).get("AP"))) for kind, word in (("bbox", "box"), ("segm", "mask"))
    )
    return ", ".join(f"{word} AP {'-' if ap is None else f'{100 * ap:.1f}'}" for word, ap in values)
