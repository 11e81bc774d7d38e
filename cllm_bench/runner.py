"""The run itself: every question to every method in turn, on one clock, stored as it goes."""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench.clock import device_clock
from cllm_bench.contracts import Decoder, LibraryDecoder, Listen, Sample, Sampling
from cllm_bench.errors import UserError
from cllm_bench.generate import Ends, Generation, generate
from cllm_bench.plan import Cell, Round, RunPlan, TaskPlan
from cllm_bench.repetition import is_repetitive
from cllm_bench.reports import markdown
from cllm_bench.results import ResultFolder, Row
from cllm_bench.stops import StopStrings, cut
from cllm_bench.summary import summarise
from cllm_bench.verdicts import Verdict, verdict

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_RUNS = 3  # to a median
WARM_UP_MEDIANS = 8  # at most
WARM_UP_AGREEMENT = 0.1  # relative
WARM_UP_TOKENS = 32


class _Asked(NamedTuple):
    """One question, as every method is asked it."""

    prompt_ids: Tensor  # (P,)
    sampling: Sampling
    limit: int
    ends: Ends | None


class _Answer(NamedTuple):
    """What one method made of one question: a generation, or the reason why there is none."""

    cell: Cell
    generation: Generation | None
    error: str | None
    counters: Mapping[str, float]
    peak_memory_bytes: int | None


class Runner:
    """Runs a plan into a folder, or finishes a run that was stopped.

    Args:
        plan: What to do.
        output: The folder.
        listen: Told before every round; never called while the clock runs.

    Raises:
        UserError: A method does not fit the family, or the folder is not this run's.
    """

    def __init__(self, plan: RunPlan, output: Path, listen: Listen) -> None:
        self._plan = plan
        self._listen = listen
        listen("loading the weights", 0, 1)
        self._clock = device_clock(plan.family.runtime.device)
        self._decoders: dict[str, Decoder | LibraryDecoder] = {
            cell.label: cell.method.bind(plan.family) for cell in plan.cells
        }
        self._prompts: dict[tuple[str, str], Tensor] = {}
        self._stops: dict[str, StopStrings | None] = {}
        extra = {
            label: int(getattr(decoder, "extra_parameters", 0))
            for label, decoder in self._decoders.items()
        }
        self.folder = ResultFolder.open(output, plan.manifest(extra))
        self._stored = {row.key: row for row in self.folder.rows}

    def run(self) -> list[dict[str, Any]]:
        """Measure what is still missing, then write `summary.json` and `table.md`.

        Returns:
            The summaries, one for each task and method.
        """
        rounds = list(self._plan.rounds())
        warm: set[str] = set()
        for done, round_ in enumerate(rounds):
            missing = [cell for cell in round_.cells if self._key(round_, cell) not in self._stored]
            if not missing:
                continue
            if round_.plan.label not in warm:
                self._listen(f"{round_.plan.label}: warm-up", done, len(rounds))
                self._warm_up(round_.plan)
                warm.add(round_.plan.label)
            what = f"{round_.plan.label} · repeat {round_.repeat + 1} of {self._plan.repeats}"
            self._listen(what, done, len(rounds))
            rows = self._round(round_, missing)
            self.folder.append(rows)
            self._stored.update((row.key, row) for row in rows)
        self._listen("summary", len(rounds), len(rounds))
        return write_summary(self.folder)

    def _key(self, round_: Round, cell: Cell, repeat: int | None = None) -> str:
        repeat = round_.repeat if repeat is None else repeat
        return self._plan.key(round_.plan, round_.sample, cell, repeat)

    def _prompt(self, plan: TaskPlan, sample: Sample) -> Tensor:
        key = (plan.label, sample.id)
        if key not in self._prompts:
            import torch

            ids = self._plan.family.tokenizer(sample.prompt).input_ids
            self._prompts[key] = torch.tensor(ids, device=self._plan.family.runtime.device)
        return self._prompts[key]

    def _warm_up(self, plan: TaskPlan) -> None:
        """Run every method on the longest prompt until two medians of its pace agree."""
        longest = max(plan.samples, key=lambda sample: len(self._prompt(plan, sample)))
        asked = _Asked(
            self._prompt(plan, longest),
            self._plan.sampling_of(plan, longest),
            min(WARM_UP_TOKENS, plan.task.max_new_tokens),
            self._ends(plan),
        )
        for cell in self._plan.cells:
            previous = None
            for _ in range(WARM_UP_MEDIANS):
                paces = [self._pace(cell, asked) for _ in range(WARM_UP_RUNS)]
                if None in paces:
                    break  # it fails on this prompt, and its row will say so
                median = statistics.median(pace for pace in paces if pace is not None)
                if previous and abs(median / previous - 1) <= WARM_UP_AGREEMENT:
                    break
                previous = median

    def _pace(self, cell: Cell, asked: _Asked) -> float | None:
        generation = self._ask(cell, asked).generation
        if generation is None:
            return None
        seconds = generation.prefill_seconds + generation.decode_seconds
        return seconds / len(generation.token_ids)

    def _ask(self, cell: Cell, asked: _Asked) -> _Answer:
        """Let one method answer, timed, with the garbage collector off."""
        decoder = self._decoders[cell.label]
        reset_peak, read_peak = _peak_memory(self._plan.family.runtime.device)
        reset_peak()
        gc.disable()
        try:
            generation = generate(
                decoder,
                asked.prompt_ids,
                sampling=asked.sampling,
                max_new_tokens=asked.limit,
                stop_ids=self._plan.family.stop_ids,
                clock=self._clock,
                ends=asked.ends,
            )
            counters: Mapping[str, float] = getattr(decoder, "counters", dict)()
        except UserError as error:
            return _Answer(cell, None, str(error), {}, None)
        except Exception as error:  # a plugin may raise anything: that is a result, not a crash
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return _Answer(cell, None, text, {}, None)
        finally:
            gc.enable()
        return _Answer(cell, generation, None, counters, read_peak())

    def _round(self, round_: Round, missing: list[Cell]) -> list[Row]:
        """Let the methods answer one after the other; grade and compare when all have."""
        plan, sample = round_.plan, round_.sample
        asked = _Asked(
            self._prompt(plan, sample),
            self._plan.sampling_of(plan, sample),
            plan.task.max_new_tokens,
            self._ends(plan),
        )
        answers = [self._ask(cell, asked) for cell in missing]
        outputs = {
            answer.cell.label: answer.generation.token_ids
            for answer in answers
            if answer.generation is not None
        }
        return [self._row(round_, answer, asked.prompt_ids, outputs) for answer in answers]

    def _row(
        self,
        round_: Round,
        answer: _Answer,
        prompt_ids: Tensor,
        outputs: Mapping[str, tuple[int, ...]],
    ) -> Row:
        cell, generation = answer.cell, answer.generation
        tokens = generation.token_ids if generation else ()
        compared = self._verdict(round_, cell, prompt_ids, outputs)
        reply = self._reply(round_.plan, tokens) if generation else None
        score, score_error = self._score(round_, reply)
        return Row(
            key=self._key(round_, cell),
            task=round_.plan.label,
            sample=round_.sample.id,
            method=cell.label,
            checkpoint=cell.checkpoint,
            repeat=round_.repeat,
            order=round_.cells.index(cell),
            attempt=self.folder.attempt,
            prompt_tokens=len(prompt_ids),
            token_ids=tokens,
            accept_lengths=generation.accept_lengths if generation else (),
            drafted=generation.drafted if generation else (),
            prefill_seconds=generation.prefill_seconds if generation else None,
            decode_seconds=generation.decode_seconds if generation else None,
            finish="failed" if generation is None or score_error else generation.finish,
            error=answer.error or score_error,
            reply=reply,
            score=score,
            verdict=compared.kind if compared else None,
            first_difference=compared.first_difference if compared else None,
            repetitive=is_repetitive(tokens),
            counters=answer.counters,
            peak_memory_bytes=answer.peak_memory_bytes,
        )

    def _verdict(
        self,
        round_: Round,
        cell: Cell,
        prompt_ids: Tensor,
        outputs: Mapping[str, tuple[int, ...]],
    ) -> Verdict | None:
        """Compare with the baseline on the same checkpoint; the baseline with its first repeat."""
        sampled = self._plan.sampling.temperature > 0
        if cell.label not in outputs or (sampled and cell.exactness != "exact"):
            return None  # another draw from the same distribution is no worse for being another
        own = next(each for each in self._plan.cells if each.label == cell.baseline)
        repeat = 0 if cell is own else round_.repeat
        stored = self._stored.get(self._key(round_, own, repeat))
        if stored is not None:
            expected = None if stored.finish == "failed" else stored.token_ids
        else:
            expected = outputs.get(own.label)
        if expected is None:
            return None
        family, role = self._plan.family, cell.checkpoint
        sampling = self._plan.sampling_of(round_.plan, round_.sample)
        return verdict(
            outputs[cell.label], expected, prompt_ids, sampling, lambda: family.session(role)
        )

    def _reply(self, plan: TaskPlan, tokens: tuple[int, ...]) -> str:
        text = str(self._plan.family.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return cut(text, plan.task.stop)

    def _ends(self, plan: TaskPlan) -> Ends | None:
        """Return what tells that a reply ends by its text, made once a task."""
        if plan.label not in self._stops:
            strings = plan.task.stop
            tokenizer = self._plan.family.tokenizer
            self._stops[plan.label] = StopStrings(strings, tokenizer) if strings else None
        return self._stops[plan.label]

    def _score(self, round_: Round, reply: str | None) -> tuple[float | None, str | None]:
        """Grade a reply once, with the first repeat; a grader that fails is a failure."""
        if reply is None or round_.repeat > 0:
            return None, None
        try:
            return float(round_.plan.task.score(round_.sample, [reply])), None
        except Exception as error:
            return None, " ".join(f"grading failed: {type(error).__name__}: {error}".split())


def _peak_memory(device: str) -> tuple[Callable[[], None], Callable[[], int | None]]:
    """Return how to reset and to read the device's peak memory; the CPU has no such counter."""
    if not device.startswith("cuda"):
        return (lambda: None), (lambda: None)
    import torch

    return (
        lambda: torch.cuda.reset_peak_memory_stats(device),
        lambda: int(torch.cuda.max_memory_allocated(device)),
    )


def write_summary(folder: ResultFolder) -> list[dict[str, Any]]:
    """Derive `summary.json` and `table.md` from the stored rows."""
    summaries = summarise(folder.manifest, folder.rows)
    folder.write_text("summary.json", json.dumps(summaries, indent=2) + "\n")
    folder.write_text("table.md", markdown([(folder.manifest, summaries)]))
    return summaries
