"""The text around the tables: the legend, the conditions and the caveats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cllm_bench.core.printable import clipped
from cllm_bench.engine.runtime import EngineChoice, ProductChoice
from cllm_bench.machine.environment import GitState
from cllm_bench.report.columns import Line, Run, method
from cllm_bench.report.numbers import expected, ratio, share, significant
from cllm_bench.report.provenance import checkpoints, prompts
from cllm_bench.results.judgements import JudgeId
from cllm_bench.results.manifest import Manifest, TaskEntry
from cllm_bench.results.summary import JudgeFigures, Summary

FEW_SAMPLES = 30
NOISY = 0.10
FOREIGN_LOAD = 0.10  # of all cores
# Share of the roof below which a baseline is called weak, by device. On a GPU a good one reaches
# 70% (gpt-fast publishes 69% for Llama-2-7B on an A100). On a CPU the limit was the same 30% when
# it was of the copy bandwidth; reads are 1.15 times as fast where both were measured, so it is a
# little stricter now.
WEAK_BASELINE = {"cpu": 0.30, "cuda": 0.60}
CLOCKS_APART = 0.02  # by which the device's seconds and the host's may differ
SHOWN_ERRORS = 3
ERROR_LENGTH = 200  # characters
LOW_PRECISION = ("bfloat16", "float16")
SHOWN_VERSIONS = ("cllm-bench", "python", "torch", "transformers")

LEGEND = (
    "All methods answer every prompt in turn, in one generation loop and on one clock. "
    "**Speedup**: decoding speed relative to {baseline} on the target checkpoint, as the geometric "
    "mean over prompts of the ratio of seconds per token; **end to end**: the same including the "
    "prefill; **vs own AR**: relative to the baseline on the method's own checkpoint. **Δ "
    'score**: paired difference from {baseline} (pp: percentage points; "same": all replies '
    "token-identical). **tokens/pass**: tokens kept per forward pass of the verifying model; "
    "**accept length**: tokens settled per pass, including those past the end of the reply; "
    "**drafted/pass** and **wasted**: draft tokens verified per pass, and the share not kept; "
    "**accepted by position**: the percentage of passes with a draft token at that position that "
    "accepted it; "
    "**predicted**: the speedup if forward passes alone took time, each as long as a pass with "
    "its number of rows takes by itself; **bandwidth**: weights and cache that the passes read per "
    "second, relative to a large {roof} on this machine; "
    "**speedup ÷ tokens/pass**: the share of the algorithm's gain that reaches the clock. **Exact "
    "match**: replies token-identical to those of the baseline on the same checkpoint (for the "
    "baseline: in every repeat); **ties / expected**: replies that part from it where rounding "
    "explains either token, and how many rounding alone makes part; **mismatch**: replies that "
    "part from it otherwise; **cut-off**: replies ended by the length limit. (lossy) and "
    "(distribution) mark methods whose replies may differ by design. Brackets: 95% intervals "
    "over prompts. –: not measured."
)


class Note(NamedTuple):
    """A note under a table, and how a terminal has it where that is shorter."""

    text: str
    brief: str = ""


def legend(runs: Sequence[Run]) -> str:
    """Return what the columns mean."""
    roofs = dict.fromkeys(manifest.roof.of for manifest, _ in runs if manifest.roof)
    return LEGEND.format(
        baseline=" or ".join(dict.fromkeys(f"`{manifest.baseline}`" for manifest, _ in runs)),
        roof=" or (in earlier runs) a large ".join(sorted(roofs, reverse=True)) or "read",
    )


def subtitle(lines: Sequence[Line]) -> str:
    """Return what was asked and how it was graded, for each source among the lines."""
    texts = [
        f"`{task.task} ({task.source}, {task.samples})` · {metric(task)} · "
        f"replies of at most {task.max_new_tokens} tokens · prompt {task.template}"
        for task in map(_task, lines)
    ]
    return "; ".join(dict.fromkeys(texts))


def notes(lines: Sequence[Line]) -> list[str]:
    """Return all facts that a reader of this table must know, once each."""
    return _once([*_about_data(lines), *_about_completeness(lines), *_about_results(lines)])


def warnings(lines: Sequence[Line]) -> list[str]:
    """Return those notes without which the figures would be read wrongly, in short."""
    return _once(
        [
            *_about_questions(lines),
            *_about_missing_verdicts(lines),
            *_about_completeness(lines),
            *(note.brief or note.text for note in _about_times(lines)),
            *(text for line in lines for text in _about_failures(line)),
        ]
    )


def _once(found: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(" ".join(note.split()) for note in found))


def conditions(runs: Sequence[Run]) -> list[str]:
    """Return how the runs were made, a line for each fact; facts of several runs are numbered."""
    texts = [_conditions(manifest) for manifest, _ in runs]
    if all(text == texts[0] for text in texts):
        return texts[0]
    numbered = enumerate(texts, 1)
    return [f"run {number}: {' · '.join(lines)}" for number, lines in numbered]


def _task(line: Line) -> TaskEntry:
    return line.manifest.task(line.summary.task)


def metric(task: TaskEntry) -> str:
    """Return what the score of a task is, and that less is better where it is."""
    return f"{task.metric} (lower is better)" if task.best_score == 0 else task.metric


def _about_data(lines: Sequence[Line]) -> Iterator[str]:
    yield from _about_questions(lines)
    for line in lines:
        yield from _task(line).notes
    yield from _about_texts(lines)
    yield from _about_missing_verdicts(lines)
    yield from _about_judging(lines)


def _about_questions(lines: Sequence[Line]) -> Iterator[str]:
    tasks = [_task(line) for line in lines]
    if len({(task.source, task.samples) for task in tasks}) > 1:
        yield "the runs asked different questions: compare scores within a run only"
    for task in tasks:
        for reason, ids in task.left_out.items():
            yield f"left out: {len(ids)} question{_s(len(ids))} ({reason})"


def _about_texts(lines: Sequence[Line]) -> Iterator[str]:
    """Say how the perplexities came about, once where all checkpoints read the same tokens."""
    for found in (line.summary.perplexity for line in lines):
        if found:
            step = "" if found.stride == found.window else f", {found.stride:,} apart"
            rest = "dropped" if found.remainder == "drop" else "scored"
            yield (
                f"perplexity: measured once for each checkpoint, in {found.windows:,} "
                f"window{_s(found.windows)} of {found.window:,} tokens{step} (a partial "
                f"last window is {rest}); {found.tokens:,} of {found.text_tokens:,} tokens are "
                f"scored; the score is per token, the word perplexity per word ({found.words:,} "
                "words); brackets are 95% intervals over stretches of the text"
            )


def _about_missing_verdicts(lines: Sequence[Line]) -> Iterator[str]:
    """Say where a judge has not graded all replies."""
    for line in lines:
        s = line.summary.judge
        if s and s.name is None:
            yield "not judged yet: run `cllm-bench judge RUN --judge MODEL`"
        elif s and s.judged < s.replies:
            yield (
                f"{method(line)}: {s.judged} of {s.replies} replies are judged; its "
                "score covers the conversations that are judged completely"
            )


def _about_judging(lines: Sequence[Line]) -> Iterator[str]:
    """Say who judged, and what it took."""
    for line in lines:
        s = line.summary.judge
        if not s:
            continue
        if s.name is not None:
            yield _verdicts(s, s.name)
        if s.others:
            names = ", ".join(f"`{name}`" for name in s.others)
            yield f"verdicts of {names} are stored as well: `cllm-bench table RUN --judge NAME`"


def _verdicts(s: JudgeFigures, judge: str) -> str:
    tokens = [
        f"{count:,} tokens {what}"
        for count, what in ((s.prompt_tokens, "read"), (s.completion_tokens, "written"))
        if count is not None
    ]
    spent = ", ".join([f"{s.requests:,} request{_s(s.requests)}", *tokens])
    failures = f"; {s.failures} of its answers contained no rating" if s.failures else ""
    return (
        f"judged by `{JudgeId(judge, s.identity)}`: each reply of the first repeat is rated once, "
        "identical replies together; the score of a conversation is the mean over its turns "
        f"({spent} for all methods together{failures})"
    )


def _about_completeness(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        s, task = line.summary, _task(line)
        planned = task.planned(s.method)
        if s.samples < planned:
            yield f"incomplete: {method(line)} has answered {s.samples} of {planned} questions"
        untimed = s.samples - s.failed - s.samples_timed
        if untimed > 0:
            yield (
                f"{method(line)}: {untimed} repl{'y' if untimed == 1 else 'ies'} ended with the "
                f"prefill and {'has' if untimed == 1 else 'have'} no decoding time"
            )
    fewest = min(line.summary.samples for line in lines)
    if 0 < fewest < FEW_SAMPLES:
        yield f"only {fewest} question{_s(fewest)}: too few to separate methods of similar speed"


def _about_results(lines: Sequence[Line]) -> Iterator[str]:
    yield from (note.text for note in _about_times(lines))
    yield from _about_weights(lines)
    yield from _about_memory(lines)
    for line in lines:
        yield from _about_exactness(line)
        yield from _about_failures(line)
    for line in lines:
        yield from _about_rounding(line)


def _about_times(lines: Sequence[Line]) -> Iterator[Note]:
    """Say how far the speeds can be trusted."""
    for line in lines:
        yield from _about_noise_floor(line)
    yield from _about_phases(lines)
    yield from _about_machine(lines)
    noisy = [line for line in lines if (line.summary.spread or 0) > NOISY]
    if noisy:
        spreads = ", ".join(f"{line.summary.spread:.0%} for {method(line)}" for line in noisy)
        most = max(line.summary.spread or 0 for line in noisy)
        yield Note(
            f"noisy machine: repeats of a question differ by {spreads} (interquartile range of "
            "seconds per token, relative to the median); pairing cancels slow drift, not bursts",
            f"noisy machine: repeats of a question differ by up to {most:.0%}",
        )


def _about_noise_floor(line: Line) -> Iterator[Note]:
    """Say how far apart two equal methods came out, where the baseline was measured twice."""
    s, cell = line.summary, line.manifest.cell(line.summary.method)
    if cell is None or not cell.again or not s.speedup_ci:
        return
    low, high = s.speedup_ci
    task, part = _task(line), ""
    asked = task.planned(s.method)
    if task.replies is not None and asked < task.replies:
        part = f", on {asked} evenly spaced questions of {task.replies}"
    speed = ratio(s.speedup, [low, high])
    found = f"{method(line)} is the baseline measured a second time{part}: {speed}"
    floor = max(abs(low - 1), abs(high - 1))
    if low <= 1 <= high:
        yield Note(
            f"noise floor: {found}; differences below {floor:.1%} are not meaningful",
            f"noise floor: {line.manifest.baseline}, measured twice, differs from itself by up to "
            f"{floor:.1%}",
        )
    else:
        yield Note(
            f"**noise floor: {found}, which should include 1**: something favoured one of the two, "
            f"so do not trust differences below {floor:.1%}"
        )


def _about_phases(lines: Sequence[Line]) -> Iterator[Note]:
    """Say which methods answered at another time than the baseline."""
    for manifest, own in _by_run(lines):
        cells = [cell for s in own if (cell := manifest.cell(s.method)) is not None]
        baseline = manifest.cell(manifest.baseline)
        apart = [cell.method for cell in cells if baseline and cell.phase != baseline.phase]
        if apart:
            yield Note(
                f"measured in phases, one set of checkpoints at a time: {', '.join(apart)} "
                f"answered when all questions had been asked of {manifest.baseline}, so these "
                "speedups are not paired in time, and a slow drift of the machine is in them"
            )


def _about_machine(lines: Sequence[Line]) -> Iterator[Note]:
    """Say what the machine did: other programs, a processor that slowed, a weak row."""
    for manifest, own in _by_run(lines):
        loads = [s.foreign_load for s in own if s.foreign_load is not None]
        cores = manifest.machine.cores
        if loads and max(loads) > FOREIGN_LOAD * cores:
            yield Note(
                f"**other programs were running**: they kept {max(loads):.1f} of {cores} cores "
                "busy on average; speeds are those of a shared machine"
            )
        reasons = dict.fromkeys(reason for s in own for reason in s.slowed)
        if reasons:
            told = ", ".join(_slowed(reason, own) for reason in reasons)
            yield Note(f"**the machine slowed down during the measurement**: {told}")
        apart = {s.method: s.clock_difference for s in own if s.clock_difference is not None}
        if apart and max(apart.values()) > CLOCKS_APART:
            worst = max(apart, key=lambda name: apart[name])
            yield Note(
                f"**the device's clock and the host's differ by {apart[worst]:.1%} for {worst}** "
                "(median over its replies): one of the two is wrong, or work ran where the "
                "device's events do not see it"
            )
        yield from _about_baseline(manifest, own)


def _slowed(reason: str, own: Sequence[Summary]) -> str:
    """Return a reason, and the share of the time where the driver counts it."""
    shares = [s.throttled[reason] for s in own if s.throttled and reason in s.throttled]
    return f"{reason} ({max(shares):.0%} of the time)" if shares else reason


def _about_baseline(manifest: Manifest, own: Sequence[Summary]) -> Iterator[Note]:
    baseline = next((s for s in own if s.method == manifest.baseline), None)
    used, roof = baseline and baseline.bandwidth_share, manifest.roof
    device = "cuda" if manifest.runtime.device.startswith("cuda") else "cpu"
    if used and roof and used < WEAK_BASELINE[device]:
        yield Note(
            f"the baseline reads weights and cache at {used:.0%} of the measured {roof.of} "
            f"bandwidth ({roof.bandwidth / 1e9:.3g} GB/s), far from the limit of the "
            "memory: speedups over a stronger baseline would be smaller",
            f"weak baseline: {used:.0%} of the memory's bandwidth; over a stronger one, speedups "
            "would be smaller",
        )


def _about_memory(lines: Sequence[Line]) -> Iterator[str]:
    if any(line.summary.peak_memory_bytes for line in lines):
        yield (
            "peak memory is everything that the run held on the device while decoding, "
            "including weights and caches of the other methods"
        )


def _about_weights(lines: Sequence[Line]) -> Iterator[str]:
    """Say which weights are quantised; their verdicts are against a baseline on the same ones."""
    for manifest, _ in _by_run(lines):
        for role, found in manifest.quantised.items():
            how = f"computed in {found.dtype}"
            if found.expanded:
                how = f"expanded to {found.dtype}: there is no kernel for them here"
            yield f"the weights of {role} are quantised: {found.kind}, {how}"


def _by_run(lines: Sequence[Line]) -> Iterator[tuple[Manifest, list[Summary]]]:
    for run in dict.fromkeys(line.run for line in lines):
        own = [line for line in lines if line.run == run]
        yield own[0].manifest, [line.summary for line in own]


def _about_exactness(line: Line) -> Iterator[str]:
    s = line.summary
    verdicts = s.verdicts
    if not verdicts or not (verdicts.has_ties or verdicts.mismatch):
        return
    compared = verdicts.exact + verdicts.tie + verdicts.mismatch
    counts = (
        f"{verdicts.tie} of {compared} replies part from the baseline's at a numerical tie and "
        f"{verdicts.mismatch} otherwise"
    )
    if verdicts.expected_ties is not None:
        counts += f"; {expected(verdicts.expected_ties)} ties are expected from rounding alone"
    if s.exactness == "exact" and verdicts.mismatch:
        yield f"**{method(line)} claims to be exact and is not**: {counts}"
    else:
        yield f"{method(line)}: {counts}"


def _about_rounding(line: Line) -> Iterator[str]:
    """Say what makes a tie, once for each checkpoint where there are any."""
    s, dtype = line.summary, line.manifest.runtime.dtype
    found, verdicts = s.rounding, s.verdicts
    if not found or not verdicts:
        return
    if found.tolerance is None:
        if dtype in LOW_PRECISION or verdicts.has_ties or verdicts.mismatch:
            yield (
                f"the rounding of `{s.checkpoint}` was not measured ({found.reason}): ties are "
                "judged by a bound that does not know the model"
            )
    elif verdicts.has_ties:
        yield (
            f"a tie on `{s.checkpoint}`: the logits of both tokens are within "
            f"{significant(found.tolerance, 2)} of the best, as much as rounding to {dtype} moves "
            f"them between passes of different shapes (measured on {found.positions} tokens of the "
            f"baseline's replies; the two likeliest are that close at {share(found.within)} of "
            "them)" + ("; `--dtype float32` tells them apart" if dtype in LOW_PRECISION else "")
        )


def _about_failures(line: Line) -> Iterator[str]:
    s = line.summary
    if not s.failed:
        return
    errors = list(s.errors.items())[:SHOWN_ERRORS]
    shown = [f"{clipped(error, ERROR_LENGTH)} ({number}×)" for error, number in errors]
    more = len(s.errors) - len(shown)
    if more > 0:
        shown.append(f"{more} more kind{_s(more)} of error")
    counted = "" if s.perplexity or s.score is None else ", which count as score 0"
    yield (
        f"{method(line)} failed on {s.failed} of {s.samples} questions "
        f"({share(s.failed / s.samples)}){counted}: {'; '.join(shown)}"
    )


def _conditions(manifest: Manifest) -> list[str]:
    machine, runtime = manifest.machine, manifest.runtime
    sources = ", ".join(f"`{task.task} ({task.source}, {task.samples})`" for task in manifest.tasks)
    versions = [
        f"{name} {manifest.versions[name]}" for name in SHOWN_VERSIONS if name in manifest.versions
    ]
    if runtime.device.startswith("cuda"):
        parts = [machine.gpu, machine.driver and f"driver {machine.driver}"]
        parts.append(machine.cuda and f"CUDA {machine.cuda}")
    else:
        parts = [machine.cpu, f"{machine.cores} core{_s(machine.cores)}"]
    device = ", ".join(part for part in [*parts, machine.platform] if part)
    settings = {
        name: getattr(runtime, name) for name in ("dtype", "attention", "engine", "threads")
    }
    if runtime.device_map != "none":
        settings["layers over all GPUs"] = runtime.device_map
    return [
        f"model {manifest.model}{_quantised(manifest)}; questions {sources}",
        f"checkpoints: {'; '.join(checkpoints(manifest)) or 'not stored'}",
        f"prompts: {', '.join(prompts(manifest))}",
        f"device {runtime.device} ({device}); "
        + ", ".join(f"{name} {value}" for name, value in settings.items()),
        *engines(manifest.engines),
        *products(manifest.products),
        *_layers(manifest),
        f"{manifest.repeats} repeat{_s(manifest.repeats)} of each question (median), "
        f"{_order(manifest)}; {_flushed(manifest)}{sampling(manifest)}; seed {manifest.seed}",
        ", ".join([*versions, *_commit(manifest.git)]) + f"; {manifest.created}",
    ]


def _order(manifest: Manifest) -> str:
    phases = 1 + max(cell.phase for cell in manifest.cells)
    if phases == 1:
        return "methods in balanced order"
    return (
        f"measured in {phases} phases, one set of checkpoints at a time, the methods of a phase in "
        "balanced order"
    )


def _quantised(manifest: Manifest) -> str:
    kinds = ", ".join(f"{role} {found.kind}" for role, found in manifest.quantised.items())
    return f" ({kinds})" if kinds else ""


def engines(chosen: Mapping[str, EngineChoice]) -> Iterator[str]:
    """Say which engine was found the fastest for which role, and by what."""
    for role, choice in chosen.items():
        if choice.milliseconds:
            times = ", ".join(f"{name} {took:.3g}" for name, took in choice.milliseconds.items())
            refused = "".join(
                f"; {name} cannot be used ({reason})" for name, reason in choice.refused.items()
            )
            yield (
                f"engine of {role}: {choice.engine}, the fastest that passed a self-check "
                f"(ms for a pass of one row: {times}{refused})"
            )


def products(chosen: Mapping[str, ProductChoice]) -> Iterator[str]:
    """Say which kernels multiply by weights, and what that gains: a line for equal roles."""
    roles: list[tuple[ProductChoice, list[str]]] = []
    for role, choice in chosen.items():
        alike = next((names for other, names in roles if other == choice), None)
        if alike is not None:
            alike.append(role)
        elif choice.copied_bytes:
            roles.append((choice, [role]))
    for choice, names in roles:
        columns = zip(*choice.kernels.values(), strict=True)
        kinds = ["/".join(sorted(set(column))) for column in columns]
        runs = ", ".join(
            f"{kind} to {rows}"
            for kind, rows, following in zip(kinds, choice.rows, [*kinds[1:], None], strict=True)
            if kind != following
        )
        gains = [
            f"{ours / plain:.2f}"
            for ours, plain in zip(
                choice.milliseconds["chosen"], choice.milliseconds["plain"], strict=True
            )
        ]
        yield (
            f"products of {', '.join(names)}: {runs} rows, the fastest in a trial (time at "
            f"{'/'.join(map(str, choice.rows))} rows over plain: {'/'.join(gains)}; packed "
            f"copies {choice.copied_bytes / 1e6:,.0f} MB)"
        )


def _layers(manifest: Manifest) -> Iterator[str]:
    """Say how many layers run fused, and where an attention window ends a sequence."""
    found = manifest.checkpoints
    if not found:
        return
    fused = ", ".join(f"{role} {e.fused_layers} of {e.layers}" for role, e in found.items())
    windows = ", ".join(f"{role} {e.window:,}" for role, e in found.items() if e.window)
    ends = f"; attention windows, which no sequence leaves: {windows} tokens" if windows else ""
    yield f"fused layers: {fused}{ends}"


def sampling(manifest: Manifest) -> str:
    """Return how tokens were chosen."""
    chosen = manifest.sampling
    if not chosen.temperature:
        return "greedy"
    nucleus = f", top-p {chosen.top_p:g}" if chosen.top_p < 1 else ""
    return f"sampled at temperature {chosen.temperature:g}{nucleus}"


def _flushed(manifest: Manifest) -> str:
    if not manifest.flushed_bytes:
        return ""
    size = manifest.flushed_bytes / 2**20
    return f"caches emptied before each timed reply ({size:,.0f} MiB overwritten); "


def _commit(git: GitState | None) -> Iterator[str]:
    if git is not None and git.commit:
        yield f"commit {git.commit[:10]}" + (" with local changes" if git.changed_files else "")


def _s(number: int) -> str:
    return "" if number == 1 else "s"
