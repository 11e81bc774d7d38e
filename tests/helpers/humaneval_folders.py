"""Small folders in HumanEval's layout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from cllm_bench.contracts import Sample, Source
from cllm_bench_tasks.humaneval.task import HumanEval

PROMPT = 'from typing import List\n\n\ndef total(values: List[int]) -> int:\n    """Add up."""\n'
PROBLEM = {
    "task_id": "Test/0",
    "prompt": PROMPT,
    "entry_point": "total",
    "canonical_solution": "    return sum(values)\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n",
}


def write(folder: Path, problems: list[Any], name: str = "HumanEval.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(problem)}\n" for problem in problems)
    data = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (folder / name).write_bytes(data)
    return folder


def question(folder: Path, task: HumanEval | None = None) -> Sample:
    return (task or HumanEval()).samples(Source("folder", folder)).samples[0]
