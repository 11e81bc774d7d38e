"""Whether what is asked for now is what was begun."""

from __future__ import annotations

import json
from typing import Any


def difference(old: Any, new: Any, name: str) -> str | None:
    """Describe the first value in which two JSON documents differ; None where there is none.

    Args:
        old: What is stored.
        new: What is asked for now.
        name: Of the whole document, with which the value's own name begins.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(new) + [key for key in old if key not in new]
        found = (difference(old.get(k), new.get(k), f"{name}.{k}") for k in keys)
        return next((text for text in found if text), None)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        found = (difference(a, b, f"{name}[{i}]") for i, (a, b) in pairs)
        return next((text for text in found if text), None)
    if old == new:
        return None
    return f"{name} = {json.dumps(old)}, and this one has {json.dumps(new)}"
