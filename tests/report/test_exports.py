"""The tables as CSV and LaTeX."""

from __future__ import annotations

import csv
import io

from synthetic import cell, manifest, row

from cllm_bench.report.exports import csv_table, latex_tables
from cllm_bench.report.summary import summarise

NAME = '=a|b,"c"_#%&{x}\\ \x1b~^$'


def runs():
    used = manifest(cell("ar"), cell(NAME))
    rows = [row(m, f"q{i}", pace) for m, pace in (("ar", 1.0), (NAME, 0.4)) for i in range(6)]
    return [(used, summarise(used, rows))]


def test_csv_holds_unrounded_figures_and_no_formula():
    lines = list(csv.DictReader(io.StringIO(csv_table(runs()), newline="")))
    assert [line["method"] for line in lines] == ["ar", "'" + NAME.replace("\x1b", "\\x1b")]
    assert float(lines[1]["speedup"]) == runs()[0][1][1].speedup
    assert float(lines[1]["speedup_low"]) <= 2.5 <= float(lines[1]["speedup_high"]) + 1e-9
    assert lines[1]["exact"] == "6"
    assert lines[0]["peak_memory_bytes"] == ""  # not measured, and not 0


def test_latex_reads_every_sign_as_itself():
    text = latex_tables(runs())
    assert r"\toprule" in text
    assert r"2.50$\times$ [2.50, 2.50]" in text
    shown = r"=a\textbar{}b,\textquotedbl{}c\textquotedbl{}\_\#\%\&\{x\}\textbackslash{}"
    assert shown in text
    assert "\x1b" not in text
    table = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = text.split(r"\begin{tabular}{")[1].partition("}")[0]
    for line in table.strip().splitlines():
        assert line.replace(r"\&", "").count("&") == len(columns) - 1
        assert line.endswith(r" \\")
