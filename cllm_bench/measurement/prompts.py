"""Turns the questions of a task into prompts, and the tokens of a method into the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.contracts import ChatTask, Sample, Sampling
from cllm_bench.decoding.loop import Ends
from cllm_bench.decoding.stop_strings import StopStrings, cut, ends_of
from cllm_bench.errors import UserError
from cllm_bench.measurement.plan import RunPlan, TaskPlan

if TYPE_CHECKING:
    from torch import Tensor


class Prompt(NamedTuple):
    """One turn of a question, tokenised, with its limit and stop rules."""

    prompt_ids: Tensor  # (P,)
    sampling: Sampling
    limit: int
    ends: Ends | None


class Prompts:
    """The questions of a run as its family reads them; all but later turns are kept."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._tokenizer = plan.family.tokenizer
        self._device = plan.family.runtime.device
        self._first: dict[tuple[str, str], Tensor] = {}
        self._stops: dict[str, StopStrings | None] = {}

    def prompt(self, plan: TaskPlan, sample: Sample, replies: Sequence[str] = ()) -> Prompt:
        """Return the turn that follows the replies given so far."""
        prompt_ids = self._later(plan, sample, replies) if replies else self._opening(plan, sample)
        return Prompt(
            prompt_ids,
            self._plan.sampling_of(plan, sample, len(replies)),
            plan.task.max_new_tokens,
            self._ends(plan),
        )

    def longest(self, plan: TaskPlan) -> Sample:
        """Return the question with the longest first prompt."""
        return max(plan.samples, key=lambda sample: len(self._opening(plan, sample)))

    def refuse_too_long(self, plan: TaskPlan) -> None:
        """Refuse questions whose replies may leave the attention window of a checkpoint.

        How long later turns get, nobody knows yet: their sessions refuse them when they come.

        Raises:
            UserError: The longest prompt and the longest reply do not fit it together.
        """
        longest = len(self._opening(plan, self.longest(plan)))
        needed = longest + plan.task.max_new_tokens - 1  # the last token is never read
        for role in sorted({spec.checkpoint for spec in self._plan.specs}):
            window = self._plan.family.window(role)
            if window is not None and needed > window:
                raise UserError(
                    f"{plan.label}: prompts of up to {longest:,} tokens and replies of up to "
                    f"{plan.task.max_new_tokens:,} leave the attention window of '{role}', "
                    f"{window:,} tokens, and what leaves it no rollback brings back; lower "
                    "max_new_tokens, or leave out the longest questions with --limit"
                )

    def longest_sequence(self, plan: TaskPlan) -> int:
        """Return the most tokens that a sequence of a task can have: prompt and replies."""
        most = 0
        for sample in plan.samples:
            turns = plan.turns(sample)
            last = self._later(plan, sample, [""] * (turns - 1)) if turns > 1 else None
            prompt = self._opening(plan, sample) if last is None else last
            most = max(most, len(prompt) + turns * plan.task.max_new_tokens)
        return most

    def reply(self, plan: TaskPlan, token_ids: Sequence[int]) -> str:
        """Return the text to grade."""
        text = str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
        return cut(text, plan.task.stop)

    def _opening(self, plan: TaskPlan, sample: Sample) -> Tensor:
        key = (plan.label, sample.id)
        if key not in self._first:
            self._first[key] = self._later(plan, sample, ())
        return self._first[key]

    def _later(self, plan: TaskPlan, sample: Sample, replies: Sequence[str]) -> Tensor:
        import torch

        if isinstance(plan.task, ChatTask):
            from cllm_bench.decoding.chat_templates import chat_ids

            messages = plan.task.messages(sample, replies)
            ids = chat_ids(self._tokenizer, plan.task.chat_template, messages)
        else:
            ids = self._tokenizer(sample.prompt).input_ids
        return torch.tensor(ids, device=self._device)

    def _ends(self, plan: TaskPlan) -> Ends | None:
        """Return what tells that a reply ends by its text."""
        if plan.label not in self._stops:
            self._stops[plan.label] = ends_of(plan.task.stop, self._tokenizer)
        return self._stops[plan.label]
