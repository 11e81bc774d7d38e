"""Writes a stored run of any size: `python tests/helpers/large_run.py FOLDER ROWS`."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

from synthetic import cell, manifest, row, task

METHODS = {"ar": 1.0, "ar A/A": 1.0, "jacobi": 0.5, "cllm": 0.3}
REPEATS = 3


def write_run(folder: Path, rows: int, seed: int = 0, slower: float = 1.0) -> None:
    """Write a run with as many rows, replies of some 60 tokens and paces that scatter by 5%.

    Args:
        folder: Where to write it.
        rows: How many.
        seed: Of the paces.
        slower: Factor of all seconds of decoding.
    """
    draw = random.Random(seed)
    questions = -(-rows // (len(METHODS) * REPEATS))
    labels = [cell(label, again=label == "ar A/A") for label in METHODS]
    used = manifest(*labels, tasks=(task(samples=questions),), schema=2)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(used.to_json()), encoding="utf-8")
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for place in range(rows):
            label = list(METHODS)[place % len(METHODS)]
            number, repeat = divmod(place // len(METHODS), REPEATS)
            seconds = METHODS[label] * slower * draw.gauss(1, 0.05) / 100
            found = row(
                *(label, f"test-{number:05}", seconds),
                tokens=60,
                repeat=repeat,
                token_ids=tuple((number * 7 + each) % 30_000 for each in range(60)),
                prompt_hash=f"{number:016x}",
                reply="The answer is 42. " * 12,
            )
            stream.write(json.dumps(replace(found, key=f"{place:024x}").to_json()) + "\n")


if __name__ == "__main__":
    write_run(Path(sys.argv[1]), int(sys.argv[2]))
