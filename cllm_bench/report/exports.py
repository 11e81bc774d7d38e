"""The tables' figures for other programs: CSV unrounded, LaTeX as the Markdown shows them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from cllm_bench.core.printable import printable, visible
from cllm_bench.report.columns import Run
from cllm_bench.report.tables import Grid, lines_of, sections
from cllm_bench.results.summary import Bounds, Summary

# What the columns of the tables show, by the names of `summary.json`.
_FIGURES = (
    *("metric", "best_score", "score", "score_ci", "score_difference", "score_difference_ci"),
    *("speedup", "speedup_ci", "speedup_vs_own_ar", "speedup_vs_own_ar_ci"),
    *("speedup_end_to_end", "speedup_end_to_end_ci", "predicted_speedup", "efficiency"),
    *("tokens_per_second", "tokens_per_pass", "mean_accept_length", "first_token_ms"),
    *("drafted_per_pass", "wasted_drafts", "exactness", "exact_match", "cut_off", "repetitive"),
    *("samples", "failed", "bandwidth_share", "peak_memory_bytes", "parameters"),
    *("extra_parameters",),
)
_VERDICTS = ("exact", "tie", "mismatch", "expected_ties")

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "×": r"$\times$",
        "÷": r"$\div$",
        "−": "$-$",
        "–": "--",
        "Δ": r"$\Delta$",
        "…": r"\ldots{}",
        "·": r"$\cdot$",
    }
)


def csv_table(runs: Sequence[Run]) -> str:
    """Return one line for each run, task and method, with unrounded figures.

    An interval has a column for either end (`_low`, `_high`), a figure that was not measured an
    empty cell. A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\r\n")
    names = [name for figure in _FIGURES for name in _columns(figure)]
    table.writerow(["run", "model", "task", "source", "method", "checkpoint", *names, *_VERDICTS])
    for number, (manifest, summaries) in enumerate(runs, 1):
        for summary in summaries:
            texts = (manifest.model, summary.task, summary.source, summary.method)
            table.writerow(
                [
                    number,
                    *map(_csv_cell, (*texts, summary.checkpoint)),
                    *(_csv_cell(each) for figure in _FIGURES for each in _values(summary, figure)),
                    *(_csv_cell(getattr(summary.verdicts, name, None)) for name in _VERDICTS),
                ]
            )
    return stream.getvalue()


def latex_tables(runs: Sequence[Run]) -> str:
    """Return the tables as LaTeX floats; the document needs the packages booktabs and textcomp."""
    parts = ["% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."]
    for section in sections(lines_of(runs)):
        caption = f"{section.task}: {section.subtitle}".replace("`", "")
        parts.append(_latex_table(section.main, caption))
        if section.mechanism:
            parts.append(_latex_table(section.mechanism, f"{section.task}: how the passes went"))
    return "\n\n".join(parts) + "\n"


def _columns(figure: str) -> tuple[str, ...]:
    if not figure.endswith("_ci"):
        return (figure,)
    name = figure.removesuffix("_ci")
    return f"{name}_low", f"{name}_high"


def _values(summary: Summary, figure: str) -> tuple[Any, ...]:
    if not figure.endswith("_ci"):
        return (getattr(summary, figure),)
    bounds: Bounds | None = getattr(summary, figure)
    return bounds if bounds is not None else (None, None)


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def _latex_table(table: Grid, caption: str) -> str:
    titles = [column.title for column in table.columns]
    layout = "".join("l" if column.left else "r" for column in table.columns)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            _latex_row(titles),
            r"\midrule",
            *map(_latex_row, table.cells),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _latex_row(texts: Sequence[str]) -> str:
    cells = [_latex(text) for text in texts]
    # A bracket after \\ would be read as its optional argument.
    cells[0] = f"{{}}{cells[0]}" if cells[0].startswith(("[", "*")) else cells[0]
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    """Return a text whose signs mean themselves in LaTeX, on one line."""
    return printable(text).translate(_LATEX)
