"""Reads GSM8K (Cobbe et al., 2021): its JSON lines from a folder, or the data set on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cllm_bench.contracts import Split
from cllm_bench.core.files import reading_hub
from cllm_bench.data.json_lines import JsonLine, read_json_lines
from cllm_bench.errors import UserError

from .extraction import strict_number

HUB, CONFIG = "openai/gsm8k", "main"
REMEDY = (
    "give --data the folder of GSM8K (https://github.com/openai/grade-school-math) "
    "that holds train.jsonl and test.jsonl"
)


class ProblemText(NamedTuple):
    """A problem with its worked answer.

    Attributes:
        id: The split and the place in it, counted from 0: `test-0000`.
    """

    id: str
    question: str
    answer: str


def read_folder(folder: Path | None, split: Split) -> tuple[ProblemText, ...]:
    """Read one split from the data set's own folder.

    Raises:
        UserError: The folder is not GSM8K, or a line is damaged.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"no folder '{folder}'; {REMEDY}")
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"'{folder}' is no GSM8K folder: it has no {path.name}; {REMEDY}")
    return tuple(
        _problem(entry, f"{split}-{index:04d}") for index, entry in enumerate(read_json_lines(path))
    )


def read_hub(split: Split) -> tuple[ProblemText, ...]:
    """Read one split from the Hub, or from what `datasets` keeps of it.

    Raises:
        UserError: It cannot be had, or is not what it was.
    """
    from datasets import load_dataset

    with reading_hub(HUB, REMEDY):
        rows = load_dataset(HUB, CONFIG, split=split)
    return tuple(
        _problem(JsonLine(Path(f"hub:{HUB}"), index + 1, row), f"{split}-{index:04d}")
        for index, row in enumerate(rows)
    )


def _problem(entry: JsonLine, name: str) -> ProblemText:
    question, answer = entry.text("question").strip(), entry.text("answer").strip()
    if strict_number(answer) is None:
        raise entry.damaged("the answer has no number after '#### '")
    return ProblemText(name, question, answer)
