"""Small folders in GSM8K's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = [
    {"question": " How much is 2+3? ", "answer": "It is 2+3 = <<2+3=5>>5.\n#### 5"},
    {"question": "How far?", "answer": "1000+34 = $<<1000+34=1034>>1034\n#### 1,034"},
    {"question": "How cold?", "answer": "Very cold.\n#### -10"},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "test.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return folder
