"""The run itself: every question to every method in turn, on one clock, stored as it goes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cllm_bench.contracts import Listen
from cllm_bench.decoding.exactness import Comparison, verdict
from cllm_bench.decoding.repetition import is_repetitive
from cllm_bench.engine.clock import device_clock
from cllm_bench.engine.pass_timing import TURN, TURNS
from cllm_bench.engine.passes import Shape
from cllm_bench.machine.cache_flush import CacheFlush
from cllm_bench.machine.interference import Lap, MachineWatch
from cllm_bench.measurement.executor import Answer, Executor
from cllm_bench.measurement.memory import refuse_shortage
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.perplexity import Texts
from cllm_bench.measurement.plan import Round, RunPlan, TaskPlan, WeightFacts
from cllm_bench.measurement.prompts import Prompt, Prompts
from cllm_bench.measurement.rounding import RoundingSurvey
from cllm_bench.report.write import write_summary
from cllm_bench.results.folder import ResultFolder, Row
from cllm_bench.results.pass_times import PassTime, missing_shapes
from cllm_bench.results.rows import hash_prompt
from cllm_bench.results.summary import Summary

PAUSE_TURNS = 1  # of every shape of pass, in each of many pauses
ROUNDS_TO_A_PAUSE = 20


@dataclass
class _Talk:
    """What was said between one method and one sample, turn by turn."""

    spec: MethodSpec
    asked: list[Prompt] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    verdicts: list[Comparison | None] = field(default_factory=list)


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
        self._prompts = Prompts(plan)
        # Prompts that cannot be made or are too long, and weights that do not fit, are told before
        # any are loaded.
        for each in plan.tasks:
            self._prompts.refuse_too_long(each)
        refuse_shortage(plan, max(map(self._prompts.longest_sequence, plan.tasks)))
        listen("loading the weights", 0, 1)
        runtime, stored = plan.family.runtime, ResultFolder.manifest_of(output)
        if stored is not None:  # a run goes on with what it began with
            if runtime.engine == "auto":
                plan.family.engines.update(stored.engines)
            if runtime.products == "auto":
                plan.family.products.update(stored.products)
        self._clock = device_clock(*plan.family.runtime.devices)
        self._watch = MachineWatch(plan.family.runtime.device)
        flush = CacheFlush(plan.family.runtime.device) if plan.flush_caches else None
        self._executor = Executor(plan, self._clock, flush)
        self._texts = Texts(plan)
        self._survey = RoundingSurvey(plan, self._prompts, listen)
        flushed = 0 if flush is None else flush.bytes
        self.folder = ResultFolder.open(output, plan.manifest(self._weights(), flushed))
        self._stored = {row.key: row for row in self.folder.rows}

    def run(self) -> list[Summary]:
        """Measure what is still missing, then write `summary.json` and `table.md`.

        Returns:
            The summaries, one for each task and method.
        """
        rounds = list(self._plan.rounds())
        for phase in range(len(self._plan.phases)):
            self._run_phase(phase, rounds)
        self._executor.close()  # a judge on this machine needs the room
        self._listen("summary", len(rounds), len(rounds))
        return write_summary(self.folder)

    def _weights(self) -> WeightFacts:
        """Load the weights of all phases once, the first phase last, and describe them.

        So what cannot be loaded is told before anything is measured, and the manifest is whole.
        """
        found = WeightFacts()
        for phase in reversed(range(len(self._plan.phases))):
            self._executor.enter(phase)
            own = self._plan.describe_weights(phase, self._executor.extra_parameters())
            found.cells |= own.cells
            found.checkpoints |= own.checkpoints
        return found

    def _run_phase(self, phase: int, rounds: Sequence[Round]) -> None:
        """Measure what is missing of one phase; where nothing is, load nothing."""
        roles = {spec.checkpoint for spec in self._plan.phases[phase]}
        texts = [
            wanted
            for wanted in self._texts.missing(self.folder.perplexities)
            if wanted.role in roles
        ]
        missing = {
            number: specs
            for number, round_ in enumerate(rounds)
            if round_.phase == phase and (specs := self._missing(round_))
        }
        untimed = any(self._untimed(task, phase) for task in self._plan.tasks)
        if not (texts or missing or untimed):
            return
        if phase != self._executor.phase:
            self._listen(
                "loading the weights of the next phase", min(missing, default=0), len(rounds)
            )
        self._executor.enter(phase)
        for wanted in texts:
            measured = self._texts.measure(wanted, self.folder.attempt, self._listen)
            self.folder.append_perplexity(measured)
        self._run_rounds(rounds, missing)
        for task in self._plan.tasks:
            self._time_passes(task, TURNS, again=False)

    def _run_rounds(
        self, rounds: Sequence[Round], missing: Mapping[int, Sequence[MethodSpec]]
    ) -> None:
        """Ask what is missing, by the number of the round, in order."""
        longest = {
            task.label: self._prompts.prompt(task, self._prompts.longest(task))
            for task in self._plan.tasks
        }
        pause = min(missing, default=0)  # the round of the last one
        for done, specs in missing.items():
            round_ = rounds[done]
            task = round_.plan
            self._measure_rounding(task, specs)
            if not self._executor.is_warm(task.label):
                self._listen(f"{task.label}: warm-up", done, len(rounds))
            anew = self._executor.prepare(task.label, longest[task.label])
            if anew and round_.repeat > 0 and done >= pause + ROUNDS_TO_A_PAUSE:
                # By now every question has been asked once, and all shapes of passes are known.
                self._time_passes(task, PAUSE_TURNS, again=True)
                pause = done
            what = f"{task.label} · repeat {round_.repeat + 1} of {self._plan.repeats}"
            self._listen(what, done, len(rounds))
            rows = self._round(round_, specs)
            self.folder.append(rows)
            self._stored.update((row.key, row) for row in rows)

    def _missing(self, round_: Round) -> list[MethodSpec]:
        return [spec for spec in round_.specs if not self._is_stored(round_, spec)]

    def _untimed(self, plan: TaskPlan, phase: int, *, again: bool = False) -> list[Shape]:
        """Return the shapes of passes of a phase that nobody has timed; again: all of them."""
        labels = {spec.label for spec in self._plan.phases[phase]}
        rows = (row for row in self.folder.rows if row.method in labels)
        return missing_shapes(rows, plan.label, () if again else self.folder.pass_times)

    def _measure_rounding(self, task: TaskPlan, specs: Sequence[MethodSpec]) -> None:
        """Measure how far rounding moves the checkpoints' choices, once a folder."""
        for role in dict.fromkeys(spec.checkpoint for spec in self._plan.specs if spec in specs):
            if (task.label, role) not in self.folder.roundings:
                self.folder.append_rounding(self._survey.measure(task, role, self.folder.attempt))

    def _time_passes(self, plan: TaskPlan, turns: int, *, again: bool) -> None:
        """Time by itself every shape of pass that was run, at the task's usual context.

        Where memory has no room for that beside the methods' own sessions, nothing is measured.
        """
        shapes = self._untimed(plan, self._executor.phase, again=again)
        if not shapes:
            return
        import torch

        from cllm_bench.engine.pass_timing import time_passes

        if not again:
            self._listen(f"{plan.label}: passes alone", 0, 1)

        own = [row for row in self.folder.rows if row.task == plan.label and row.token_ids]
        context = round(
            statistics.median(row.prompt_tokens + len(row.token_ids) / 2 for row in own)
        )
        try:
            found = time_passes(self._plan.family, shapes, context, self._clock, turns)
        except torch.OutOfMemoryError:
            return
        passes = turns * TURN
        for shape, seconds in found.items():
            self.folder.append_pass_time(
                PassTime(plan.label, str(shape), context, seconds, passes, self.folder.attempt)
            )

    def _key(self, round_: Round, turn: int, spec: MethodSpec, repeat: int | None = None) -> str:
        repeat = round_.repeat if repeat is None else repeat
        return self._plan.key(round_.plan, round_.sample, turn, spec, repeat)

    def _is_stored(self, round_: Round, spec: MethodSpec) -> bool:
        turns = range(round_.plan.turns(round_.sample))
        return all(self._key(round_, turn, spec) in self._stored for turn in turns)

    def _round(self, round_: Round, missing: Sequence[MethodSpec]) -> list[Row]:
        """Let the methods answer one after the other, turn by turn; compare, then grade."""
        talks = {spec.label: _Talk(spec) for spec in missing}
        self._watch.lap()
        for turn in range(round_.plan.turns(round_.sample)):
            for talk in talks.values():
                self._take_turn(round_, talk)
            for talk in talks.values():
                talk.verdicts.append(self._verdict(round_, turn, talk, talks))
        lap = self._watch.lap()  # before the grading, whose processes are not foreign
        return [row for talk in talks.values() for row in self._rows(round_, talk, lap)]

    def _take_turn(self, round_: Round, talk: _Talk) -> None:
        """Ask the next turn; behind a failed one there is no conversation to go on with."""
        if talk.answers and talk.answers[-1].generation is None:
            talk.answers.append(Answer(None, "an earlier turn failed"))
            return
        asked = self._prompts.prompt(round_.plan, round_.sample, talk.replies)
        answer = self._executor.ask(talk.spec, asked)
        talk.asked.append(asked)
        talk.answers.append(answer)
        if answer.generation is not None:
            talk.replies.append(self._prompts.reply(round_.plan, answer.generation.token_ids))

    def _rows(self, round_: Round, talk: _Talk, lap: Lap) -> list[Row]:
        score, score_error = self._score(round_, talk)
        last = len(talk.answers) - 1
        return [
            self._row(
                round_,
                turn,
                talk,
                lap,
                score if turn == last else None,
                score_error if turn == last else None,
            )
            for turn in range(last + 1)
        ]

    def _row(
        self,
        round_: Round,
        turn: int,
        talk: _Talk,
        lap: Lap,
        score: float | None,
        score_error: str | None,
    ) -> Row:
        spec, answer, compared = talk.spec, talk.answers[turn], talk.verdicts[turn]
        generation = answer.generation
        tokens = generation.token_ids if generation else ()
        prompt_ids = talk.asked[turn].prompt_ids.tolist() if turn < len(talk.asked) else []
        return Row(
            key=self._key(round_, turn, spec),
            task=round_.plan.label,
            sample=round_.plan.turn_id(round_.sample, turn),
            method=spec.label,
            checkpoint=spec.checkpoint,
            repeat=round_.repeat,
            order=round_.specs.index(spec),
            attempt=self.folder.attempt,
            prompt_tokens=len(prompt_ids),
            token_ids=tokens,
            prefill_tokens=generation.prefill_tokens if generation else 0,
            accept_lengths=generation.accept_lengths if generation else (),
            drafted=generation.drafted if generation else (),
            prefill_seconds=generation.prefill_seconds if generation else None,
            decode_seconds=generation.decode_seconds if generation else None,
            finish="failed" if generation is None or score_error else generation.finish,
            error=answer.error or score_error,
            reply=talk.replies[turn] if generation else None,
            score=score,
            verdict=compared.kind if compared else None,
            first_difference=compared.first_difference if compared else None,
            repetitive=is_repetitive(tokens),
            counters=answer.counters,
            peak_memory_bytes=answer.peak_memory_bytes,
            pass_shapes=answer.pass_shapes,
            foreign_load=lap.foreign_load,
            slowed=lap.slowed,
            device_seconds=generation.device_seconds if generation else None,
            sm_clock_mhz=lap.sm_clock_mhz,
            throttled=lap.throttled,
            prompt_hash=hash_prompt(prompt_ids) if prompt_ids else None,
        )

    def _verdict(
        self, round_: Round, turn: int, talk: _Talk, talks: Mapping[str, _Talk]
    ) -> Comparison | None:
        """Compare with the baseline on the same checkpoint; the baseline with its first repeat.

        Where an earlier turn came out otherwise, the two were asked different things.
        """
        spec, generation = talk.spec, talk.answers[turn].generation
        sampled = self._plan.sampling.temperature > 0
        if generation is None or (sampled and spec.exactness != "exact"):
            return None  # another draw from the same distribution is no worse for being another
        own = next(each for each in self._plan.specs if each.label == spec.baseline)
        repeat = 0 if spec is own else round_.repeat
        keys = [self._key(round_, each, own, repeat) for each in range(turn + 1)]
        if keys[-1] in self._stored:
            rows = [self._stored[key] for key in keys]
            history, expected = [row.reply for row in rows[:-1]], rows[-1].token_ids
        elif own.label in talks:
            other = talks[own.label]
            found = other.answers[turn].generation
            history, expected = list(other.replies[:turn]), found.token_ids if found else ()
        else:
            return None
        if not expected or history != talk.replies[:turn]:
            return None
        family, asked = self._plan.family, talk.asked[turn]
        rounding = self.folder.roundings[round_.plan.label, spec.checkpoint]
        return verdict(
            generation.token_ids,
            expected,
            asked.prompt_ids,
            asked.sampling,
            lambda: family.session(spec.checkpoint),
            rounding.tolerance,
        )

    def _score(self, round_: Round, talk: _Talk) -> tuple[float | None, str | None]:
        """Grade the replies once, with the first repeat; a grader that fails is a failure."""
        if len(talk.replies) < len(talk.answers) or round_.repeat > 0:
            return None, None
        try:
            score = round_.plan.task.score(round_.sample, talk.replies)
            return None if score is None else float(score), None
        except Exception as error:
            return None, " ".join(f"grading failed: {type(error).__name__}: {error}".split())
