"""One page of HTML about stored runs, complete in itself: no script, no request, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench import __version__
from cllm_bench.core.printable import clipped, printable, visible
from cllm_bench.report import numbers
from cllm_bench.report.columns import Column, Line, method
from cllm_bench.report.notes import conditions, legend
from cllm_bench.report.page.pictures import Picture, pictures, svg
from cllm_bench.report.page.replies import Answer, Selection, select_replies
from cllm_bench.report.page.time_use import TimeUse, time_use
from cllm_bench.report.prediction import pass_seconds
from cllm_bench.report.tables import Grid, Section, lines_of, sections
from cllm_bench.report.verdict import verdicts
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.pass_times import PassTime
from cllm_bench.results.rows import Row
from cllm_bench.results.summary import Summary

if TYPE_CHECKING:
    from markupsafe import Markup

_GENERATOR = "cllm-bench report"
MARK = f'<meta name="generator" content="{_GENERATOR}'  # what tells a page of this module
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run as its folder holds it.

    Attributes:
        name: What the reader knows it by, such as the folder's path.
        manifest: Of the run.
        summaries: One for each task and method.
        rows: All rows; none where only the summaries were kept.
        pass_times: How long passes take alone.
    """

    name: str
    manifest: Manifest
    summaries: Sequence[Summary]
    rows: Sequence[Row] = ()
    pass_times: Sequence[PassTime] = ()


class _Replies(NamedTuple):
    """What one run's methods replied to the questions of a task that are shown."""

    name: str  # of the run; empty where there is only one
    baseline: str
    selection: Selection


@dataclass(frozen=True)
class _Task:
    """What the page says about one task."""

    id: str
    label: str
    verdict: list[str]
    section: Section
    pictures: list[Picture]
    times: Grid | None
    replies: list[_Replies]


class _Run(NamedTuple):
    """The conditions of one run: facts by their name."""

    name: str
    facts: list[tuple[str, list[str]]]


def page(runs: Sequence[StoredRun]) -> str:
    """Return a page of HTML about stored runs.

    Whatever the rows hold is shown as text: markup in it is escaped, control characters are spelled
    out. The page's policy allows its own style sheet and nothing else.

    Args:
        runs: In the order in which they are shown.
    """
    import jinja2
    from markupsafe import Markup

    style = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    environment.filters |= {
        "comparison": _comparison,
        "figure": numbers.figure,
        "inline": _inline,
        "of": _named,
        "svg": lambda picture: Markup(svg(picture)),
    }
    tables = [(run.manifest, run.summaries) for run in runs]
    names = [run.name for run in runs]
    return environment.get_template("page.html").render(
        title=f"cllm-bench: {clipped(printable(', '.join(names)), 120)}",
        mark=f"{_GENERATOR} {__version__}",
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        tasks=_tasks(runs),
        legend=legend(tables),
        runs=[_Run(run.name, _facts(run)) for run in runs],
        summary=Markup(_inert_json(runs)),
    )


def task_pictures(runs: Sequence[StoredRun]) -> list[Picture]:
    """Return all pictures of all tasks, as the page has them."""
    return [picture for task in _tasks(runs, replies=False) for picture in task.pictures]


def _tasks(runs: Sequence[StoredRun], *, replies: bool = True) -> list[_Task]:
    found = []
    shown = lines_of([(run.manifest, run.summaries) for run in runs])
    for number, section in enumerate(sections(shown), 1):
        lines = section.main.lines
        uses = _uses(runs, lines, section.task)
        name = re.sub(r"[^a-z0-9]+", "-", section.task.lower())[:40].strip("-")
        found.append(
            _Task(
                id=f"task-{number}",
                label=section.task,
                verdict=[each.markdown for each in verdicts(lines)],
                section=section,
                pictures=pictures(section.task, lines, uses, f"{number}-{name}".strip("-")),
                times=_times(lines, uses),
                replies=_replies(runs, section.task) if replies else [],
            )
        )
    return found


def _uses(
    runs: Sequence[StoredRun], lines: Sequence[Line], task: str
) -> dict[tuple[str, str], TimeUse]:
    """Return where the time goes, by run and method as the lines name them."""
    names = {id(line.manifest): line.run for line in lines}
    found = {}
    for run in runs:
        seconds = pass_seconds(run.pass_times, task)
        rows: dict[str, list[Row]] = {}
        for row in run.rows:
            if row.task == task:
                rows.setdefault(row.method, []).append(row)
        for label, own in rows.items():
            if use := time_use(own, seconds):
                found[names[id(run.manifest)], label] = use
    return found


def _replies(runs: Sequence[StoredRun], task: str) -> list[_Replies]:
    found = []
    for number, run in enumerate(runs, 1):
        rows = [row for row in run.rows if row.task == task]
        selection = select_replies(rows, run.manifest.baseline)
        if selection.questions:
            name = str(number) if len(runs) > 1 else ""
            found.append(_Replies(name, run.manifest.baseline, selection))
    return found


def _times(lines: Sequence[Line], uses: Mapping[tuple[str, str], TimeUse]) -> Grid | None:
    shown = tuple(line for line in lines if (line.run, line.summary.method) in uses)
    if not shown:
        return None

    def milliseconds(name: str, title: str) -> Column:
        def text(line: Line) -> str:
            value: float | None = getattr(uses[line.run, line.summary.method], name)
            if value is None:
                return numbers.ABSENT
            return numbers.significant(1000 * value).replace("-", "−")

        return Column(title, text)

    several = len({line.run for line in shown}) > 1
    columns = (
        *([Column(shown[0].run_kind, lambda line: line.run, left=True)] if several else []),
        Column("method", method, left=True),
        milliseconds("total", "whole reply"),
        milliseconds("prefill", "prefill"),
        milliseconds("decode", "decoding"),
        milliseconds("passes", "passes (estimated)"),
        milliseconds("draft", "drafting (estimated)"),
        milliseconds("rest", "rest"),
    )
    return Grid(columns, shown)


def _facts(run: StoredRun) -> list[tuple[str, list[str]]]:
    manifest, machine = run.manifest, run.manifest.machine
    hashes = manifest.configuration.get("checkpoints", {})
    checkpoints = [
        f"{role}: `{value[:19] if isinstance(value, str) else json.dumps(value)}`"
        for role, value in (hashes.items() if isinstance(hashes, Mapping) else ())
    ]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    hardware = [machine.cpu, f"{machine.cores} cores", *([machine.gpu] if machine.gpu else [])]
    facts = [
        ("command", [f"`{shlex.join(manifest.argv)}`"]),
        ("begun", [manifest.created]),
        ("machine", [", ".join([*hardware, machine.platform])]),
        ("versions", [versions]),
        ("checkpoints", checkpoints),
        ("set-up", conditions([(manifest, run.summaries)])),
    ]
    return [(name, lines) for name, lines in facts if lines]


def _inert_json(runs: Sequence[StoredRun]) -> str:
    """Return the summaries as JSON in which no sign can end the element that holds it."""
    value = [
        {"run": run.name, "summaries": [each.to_json() for each in run.summaries]} for run in runs
    ]
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _finalize(value: Any) -> Any:
    """Spell out control characters in whatever the template shows."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _inline(text: str) -> Markup:
    """Return the project's own small Markdown, `code` and **strong**, as HTML."""
    from markupsafe import Markup, escape

    html = str(escape(visible(text)))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)
    return Markup(html)


def _comparison(answer: Answer) -> str:
    """Return how a reply compares with the baseline's on the same checkpoint."""
    if answer.verdict is None:
        return numbers.ABSENT
    if answer.first_difference is None:
        return "equal" if answer.verdict == "exact" else answer.verdict
    kind = "tie" if answer.verdict == "tie" else "differs"
    return f"{kind} from token {answer.first_difference} on"


def _named(found: Sequence[Picture], *kinds: str) -> list[Picture]:
    return [each for each in found if each.kind in kinds]
