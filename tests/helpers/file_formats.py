"""Writes the tables of keys in docs/file-formats.md from the types that are stored.

Run it after a change: `python tests/helpers/file_formats.py`.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cllm_bench.ablation.report import TrainingFigures, VariantFigures
from cllm_bench.contracts import Sampling
from cllm_bench.engine.checkpoint import Quantisation
from cllm_bench.engine.runtime import EngineChoice, ProductChoice, Runtime
from cllm_bench.machine.environment import GitState, Machine
from cllm_bench.report.profile import Profile, ProfileManifest
from cllm_bench.results.judgements import Judgement
from cllm_bench.results.manifest import (
    AblationManifest,
    CheckpointEntry,
    CheckpointSource,
    Manifest,
    MethodEntry,
    TaskEntry,
    TrainingQuestions,
)
from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.perplexity import Perplexity
from cllm_bench.results.rounding import Rounding
from cllm_bench.results.rows import Row
from cllm_bench.results.summary import (
    JudgeFigures,
    PerplexityFigures,
    RoundingFigures,
    Summary,
    Verdicts,
)

PAGE = Path(__file__).parents[2] / "docs" / "file-formats.md"
STORED: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        *(Manifest, Machine, GitState, Runtime, EngineChoice, ProductChoice, Sampling),
        *(CheckpointEntry, CheckpointSource, Quantisation),
        *(MethodEntry, TaskEntry, Row, Perplexity, Judgement, PassTime, Rounding),
        *(Summary, Verdicts, RoundingFigures, PerplexityFigures, JudgeFigures),
        *(AblationManifest, TrainingQuestions, VariantFigures, TrainingFigures),
        *(Profile, ProfileManifest),
    )
}
_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}
_MARKED = re.compile(r"(<!-- keys of (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def descriptions(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if not is_dataclass(cls):
            continue
        _, _, section = (cls.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, flags=re.MULTILINE)
        found |= {name: _as_json(" ".join(text.split())) for name, text in entries}
    return found


def _as_json(text: str) -> str:
    """Write null as JSON does, not as Python does."""
    return re.sub(r"\bNone\b", "null", text)


def kind_of(hint: Any) -> str:
    """Return in words what JSON has for a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin in (Union, types.UnionType):
        known = " or ".join(kind_of(each) for each in inner if each is not types.NoneType)
        return f"{known} or null" if types.NoneType in inner else known
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin is tuple:
        return (
            f"list of {_many(inner[0])}"
            if inner[-1] is ...
            else f"[{', '.join(map(kind_of, inner))}]"
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "object" if inner[1] is Any else f"object of {_many(inner[1])}"
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        return f"[{', '.join(get_type_hints(hint))}]"
    return f"[{hint.__name__}](#{hint.__name__.lower()})" if is_dataclass(hint) else _WORDS[hint]


def _many(hint: Any) -> str:
    text = kind_of(hint)
    plurals = {"integer": "integers", "number": "numbers", "text": "texts", "anything": "values"}
    return plurals.get(text, text)


def table(kind: type) -> str:
    """Return the keys of a stored object, each with its kind and its meaning."""
    hints, meanings = get_type_hints(kind, include_extras=True), descriptions(kind)
    names = [each.name for each in fields(kind)]
    names.sort(key=lambda name: name != "schema")  # it stands first in every file
    lines = ["| key | kind | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {kind_of(hints[name])} | {meanings[name]} |" for name in names]
    return "\n".join(lines) + "\n"


def renewed(page: str) -> str:
    """Return the page with its tables made again."""
    return _MARKED.sub(
        lambda found: found[1] + "\n" + table(STORED[found[2]]) + "\n" + found[3], page
    )


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
