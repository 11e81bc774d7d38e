"""Measures, before a task's first question, how far rounding moves each checkpoint's choices."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cllm_bench.contracts import Decoder, LibraryDecoder, Listen
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.clock import Clock
from cllm_bench.measurement.plan import RunPlan, TaskPlan
from cllm_bench.measurement.prompts import Prompt, Prompts
from cllm_bench.results.rounding import Rounding

if TYPE_CHECKING:
    from cllm_bench.decoding.rounding import Reply, RoundingMeter

POSITIONS = 1024
POSITIONS_PRECISE = 32  # from 32 bits on, where ties are too rare to be counted
LONGEST = 64  # tokens of a reply, so that the positions come from several
REPLIES = 64  # at most


class RoundingSurvey:
    """Measures rounding on the first questions of a run's tasks.

    Args:
        plan: The run.
        prompts: Its questions.
        listen: Told before every reply.
    """

    def __init__(self, plan: RunPlan, prompts: Prompts, listen: Listen) -> None:
        self._plan = plan
        self._prompts = prompts
        self._listen = listen

    def measure(self, task: TaskPlan, role: str, attempt: int) -> Rounding:
        """Run replies of a checkpoint's baseline again in passes of many shapes.

        Where no reply serves, the reason is stored. The family's counts of passes end up empty.
        """
        from cllm_bench.decoding.rounding import RoundingMeter

        family, start = self._plan.family, time.perf_counter()
        meter = RoundingMeter(family.session(role), self._plan.sampling.temperature)
        reason = self._read(meter, task, role)
        family.take_passes()
        if not meter.positions:
            return Rounding(task.label, role, attempt, reason=reason)
        spread = meter.spread()
        return Rounding(
            task=task.label,
            checkpoint=role,
            attempt=attempt,
            tolerance=spread.tolerance,
            within=spread.within,
            flips=spread.flips,
            positions=meter.positions,
            replies=meter.replies,
            seconds=time.perf_counter() - start,
        )

    def _read(self, meter: RoundingMeter, task: TaskPlan, role: str) -> str:
        """Let the meter read replies until it has enough; return why it could not read more."""
        own = [spec for spec in self._plan.specs if spec.checkpoint == role]
        baseline = next(spec for spec in own if spec.label == spec.baseline)
        decoder = baseline.method.bind(self._plan.family)
        wanted, reason = self._wanted(), f"no reply of {baseline.label} has a second token"
        for sample in task.samples[:REPLIES]:
            if meter.positions >= wanted:
                break
            self._listen(f"{task.label}: rounding of '{role}'", meter.positions, wanted)
            try:
                meter.add(self._reply(decoder, self._prompts.prompt(task, sample)))
            except Exception as error:  # the baseline's row will say so too
                reason = " ".join(f"{type(error).__name__}: {error}".split())
        return reason

    def _wanted(self) -> int:
        import torch

        bits = torch.finfo(getattr(torch, self._plan.family.runtime.dtype)).bits
        return POSITIONS if bits < 32 else POSITIONS_PRECISE

    def _reply(self, decoder: Decoder | LibraryDecoder, prompt: Prompt) -> Reply:
        from cllm_bench.decoding.rounding import Reply

        found = generate(
            decoder,
            prompt.prompt_ids,
            sampling=prompt.sampling,
            max_new_tokens=min(prompt.limit, LONGEST),
            stop_ids=self._plan.family.stop_ids,
            clock=Clock(),
            ends=prompt.ends,
        )
        return Reply(prompt.prompt_ids, found.token_ids, prompt.sampling)
