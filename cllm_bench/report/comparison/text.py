"""A comparison in words and tables: Markdown that fits a terminal of 80 columns."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cllm_bench.core.printable import printable
from cllm_bench.report.comparison.figures import Check, Comparison, Pair, Ratio
from cllm_bench.report.numbers import ABSENT, difference, plain, ratio

if TYPE_CHECKING:
    from rich.console import Console

_HASH = re.compile(r"^((?:sha256|hub):)?([0-9a-f]{12})[0-9a-f]{8,}$")
_SHOWN = 60  # characters of a value
_LABEL = 60  # characters of a label
_MARKUP = str.maketrans({character: f"\\{character}" for character in "|<[`"})


def inert(text: str, limit: int = 200) -> str:
    """Return a text of unknown origin that neither a terminal nor Markdown takes for a command.

    Args:
        text: Anything; a long one is cut, and what opens a tag, a link, code or a table's cell is
            escaped.
        limit: The most characters that are shown.
    """
    text = printable(text)
    return (text if len(text) <= limit else f"{text[: limit - 1]}…").translate(_MARKUP) or ABSENT


def comparison_text(comparison: Comparison, width: int = 80) -> str:
    """Return what differs, the tables of each task, notes, and whether limits are broken.

    Args:
        comparison: What to show.
        width: The longest line, in characters; long names are folded.
    """
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        _print(comparison, console)
    lines = "\n".join(line.rstrip() for line in captured.get().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def _print(comparison: Comparison, console: Console) -> None:
    from rich.text import Text

    def paragraph(text: str) -> None:
        console.print(Text(f"\n{text}\n", overflow="fold"))

    console.print(Text(f"# A: {inert(comparison.a)}, B: {inert(comparison.b)}", overflow="fold"))
    paragraph("## What differs")
    _print_list(console, _differing(comparison) or ["nothing that is stored"])
    for task in dict.fromkeys(pair.task for pair in comparison.pairs):
        own = [pair for pair in comparison.pairs if pair.task == task]
        paragraph(f"## {inert(task, _LABEL)}: {_measure(comparison)} of B over A")
        _print_table(console, ("method", "B / A", "B is", "Δ score"), _verdicts(comparison, own))
        titles = ("method", "speedup A → B", "B / A", "tokens/pass", "same replies")
        _print_table(console, titles, map(_mechanism, own))
    if not comparison.pairs:
        paragraph("No task and method is in both runs.")
    remarks = [*map(inert, comparison.notes), *_reasons(comparison)]
    if remarks:
        paragraph("## Notes")
        _print_list(console, remarks)
    if comparison.checks:
        paragraph("## Limits")
        _print_list(console, map(check_line, comparison.checks))


def check_line(check: Check) -> str:
    """Say whether a limit is broken, and by which methods."""
    parts = [f"--fail-if {inert(check.limit)}: {check.outcome}"]
    for outcome in ("holds", "cannot tell"):
        named = [each for each in check.pairs if each.outcome == outcome]
        if named:
            names = ", ".join(
                f"{inert(each.task, _LABEL)} {inert(each.method, _LABEL)}"
                + (f" ({inert(each.reason)})" if each.reason else "")
                for each in named
            )
            parts.append(names if outcome == check.outcome else f"{outcome}: {names}")
    kept = sum(each.outcome == "does not hold" for each in check.pairs)
    if kept and check.outcome != "does not hold":
        parts.append(f"does not hold for {kept} more")
    elif kept:
        parts[0] += f" for any of {kept}"
    return "; ".join([" for ".join(parts[:2]), *parts[2:]]) if len(parts) > 1 else parts[0]


def word(found: Ratio) -> str:
    """Return the word for a ratio, with the margin of what counts as the same."""
    if found.word != "same" or found.margin is None:
        return found.word
    return f"same within {math.ceil(1000 * found.margin - 1e-9) / 10:.1f}%"


def _measure(comparison: Comparison) -> str:
    return "speedup over the own baseline" if comparison.machines else "decoding speed"


def _differing(comparison: Comparison) -> list[str]:
    """Return a line for each condition, and for what is in one run only."""
    lines = []
    if comparison.machines:
        names = ", ".join(each.name for each in comparison.machines)
        lines.append(
            f"the machine ({names}): times of the two runs are not compared, only what each run "
            "gained over its own baseline"
        )
    for each in comparison.conditions:
        a, b = _value(each.a), _value(each.b)
        told = f"{a} → {b}" if a != b else "differs (--json shows how)"
        lines.append(f"{inert(each.name)}: {told}")
    for run, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"only in {run}: {inert(cell)}" for cell in cells]
    return lines


def _value(value: Any) -> str:
    if value is None:
        return ABSENT
    text = value if isinstance(value, str) else json.dumps(value)
    found = _HASH.match(text)
    return inert(f"{found[1] or ''}{found[2]}" if found else text, _SHOWN)


def _verdicts(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    for pair in pairs:
        found = comparison.headline(pair)
        shown = ratio(found.value, found.interval)
        if comparison.machines and pair.method == comparison.baseline:
            yield inert(pair.method, _LABEL), ABSENT, "the baseline", _score(pair)
        else:
            yield inert(pair.method, _LABEL), shown, word(found), _score(pair)


def _score(pair: Pair) -> str:
    found = pair.score
    if found is None:
        return ABSENT
    if found.identical:
        return "same"
    return difference(found.difference, found.interval, found.best)


def _mechanism(pair: Pair) -> tuple[str, ...]:
    return (
        inert(pair.method, _LABEL),
        _arrow(pair.speedup_a, pair.speedup_b, "×"),
        ratio(pair.speedup.value, pair.speedup.interval),
        _arrow(pair.tokens_per_pass_a, pair.tokens_per_pass_b),
        f"{pair.identical_replies}/{pair.samples}",
    )


def _arrow(a: float | None, b: float | None, unit: str = "") -> str:
    if a is None or b is None:
        return ABSENT
    return f"{plain(a)}{unit} → {plain(b)}{unit}"


def _reasons(comparison: Comparison) -> Iterator[str]:
    """Say why a word could not be found, or a score not be compared."""
    for pair in comparison.pairs:
        name = f"{inert(pair.task, _LABEL)} {inert(pair.method, _LABEL)}"
        found, end_to_end = comparison.headline(pair), pair.end_to_end
        is_baseline = comparison.machines and pair.method == comparison.baseline
        if found.reason and not is_baseline:
            yield f"{name}: {found.reason}"
        if pair.score and pair.score.reason and not found.reason:
            yield f"{name}: scores are not compared: {inert(pair.score.reason)}"
        if end_to_end.word not in ("cannot tell", found.word):
            shown = ratio(end_to_end.value, end_to_end.interval)
            yield f"{name}: with the prefill B is {word(end_to_end)}: {shown}"


def _print_list(console: Console, lines: Iterable[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid()
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for line in lines:
        shown.add_row(Text("- "), Text(line))
    console.print(shown)


def _print_table(console: Console, titles: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table; where it does not fit, the first column is folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.MARKDOWN)
    for place, title in enumerate(titles):
        shown.add_column(Text(title), no_wrap=place > 0, overflow="fold")
    for line in lines:
        shown.add_row(*map(Text, line))
    console.print()
    console.print(shown)
