"""Says of stored runs, row by row, whether the replies are right; the exit status is 1 if not.

    python tests/benchmarks/verdicts.py FOLDER…

A row is wrong if a reply failed, or differs from the baseline's on the same checkpoint otherwise
than after a numerical tie although the method claims to be exact; a run, if its engine captures
graphs and it captured none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cllm_bench.report import numbers
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.summary import Summary, read_summaries


def faults(summary: Summary) -> Iterator[str]:
    verdicts = summary.verdicts
    if summary.failed:
        error = next(iter(summary.errors), "?")
        yield f"{summary.failed} failed ({error:.200})"
    if verdicts is None:
        yield "nothing was compared"
    elif verdicts.mismatch and summary.exactness == "exact":
        yield f"{verdicts.mismatch} differ"


def figures(summary: Summary) -> str:
    verdicts = summary.verdicts
    counts = (
        ""
        if verdicts is None
        else f"{verdicts.exact} exact, {verdicts.tie} tie, {verdicts.mismatch} mismatch"
    )
    return (
        f"{counts:32} {numbers.ratio(summary.speedup, summary.speedup_ci):22} "
        f"{numbers.significant(summary.tokens_per_second):>6} tok/s  "
        f"{numbers.share(summary.bandwidth_share):>6} of the roof"
    )


def told(folder: Path) -> Iterator[tuple[bool, str]]:
    """Yield, for each row of a run and for its engine, whether it is right, and a line on it."""
    runtime = ResultFolder.read(folder).manifest.runtime
    for summary in read_summaries(folder / "summary.json"):
        found = list(faults(summary))
        mark = "; ".join(found).upper() if found else "right"
        yield not found, f"{summary.method:28} {figures(summary)}  {mark}"
    counts = [
        json.loads(file.read_text(encoding="utf-8"))["count"]
        for file in folder.glob("captures-*.json")
    ]
    captures = runtime.engine != "eager"
    right = not captures or sum(counts) > 0
    yield right, f"engine {runtime.engine}: {sum(counts)} graphs captured"


def main() -> int:
    wrong = 0
    for name in sys.argv[1:]:
        print(name)
        for right, line in told(Path(name)):
            wrong += not right
            print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
