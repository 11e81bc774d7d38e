"""Questions and answers as token ids, in batches that can be asked for by number."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from cllm_bench.contracts import ChatTask, Sample, SampleSet, Task
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SORTED_CHUNK = 4096
MULTIPLE = 8


class Example(NamedTuple):
    """One question and its answer as ids, the end token included."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.answer)


def encode(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Turn questions and references into ids; every answer ends in the end token."""
    prompts = tokenizer([sample.prompt for sample in samples]).input_ids
    answers = tokenizer([sample.reference for sample in samples], add_special_tokens=False)
    return [
        Example(prompt, [*answer, tokenizer.eos_token_id])
        for prompt, answer in zip(prompts, answers.input_ids, strict=True)
    ]


def refuse_unanswered(
    role: str, tasks: Mapping[str, tuple[Task, SampleSet]], *, references: bool
) -> None:
    """Refuse questions without a reference where a recipe would learn something wrong from them.

    Args:
        role: What the recipe builds, named in errors.
        tasks: With their training questions.
        references: Whether it learns from references.

    Raises:
        UserError: It does, and some are missing; or a task talks and has not written down its
            conversations as they are asked, each turn with what stands before it and its reply.
    """
    for label, (task, found) in tasks.items():
        bare = sum(not sample.reference for sample in found.samples)
        which = f"{role}: {bare} of {len(found.samples)} training questions of '{label}'"
        if bare and isinstance(task, ChatTask):
            raise UserError(
                f"{which} are not written as its chat template asks them; train on another task"
            )
        if bare and references:
            raise UserError(f"{which} have no reference to learn from; train on another task")


class Sized(Protocol):
    """Something that fills so many columns of a batch."""

    @property
    def length(self) -> int:
        """Columns."""
        ...


E = TypeVar("E", bound=Sized)


class Answers(Generic[E]):
    """Examples in batches of about so many tokens; a number gives the same batch at every call.

    Or of so many examples, if that is given.

    Each epoch is shuffled, then sorted by length within large chunks, so that batches hold little
    padding; then the batches are shuffled.
    """

    def __init__(self, examples: Sequence[E], tokens: int, seed: int, count: int = 0) -> None:
        self._examples = examples
        self._tokens = tokens
        self._count = count
        self._seed = seed
        self._starts = [0]  # number of the first batch of each epoch seen so far
        self._epoch: tuple[int, list[list[E]]] = (-1, [])

    def batch(self, number: int) -> list[E]:
        """Return one batch."""
        epoch = 0
        while True:
            if epoch + 1 == len(self._starts):
                self._starts.append(self._starts[epoch] + len(self._batches(epoch)))
            if number < self._starts[epoch + 1]:
                return self._batches(epoch)[number - self._starts[epoch]]
            epoch += 1

    @property
    def batches(self) -> int:
        """Batches of the first epoch."""
        return len(self._batches(0))

    def _batches(self, epoch: int) -> list[list[E]]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(random.Random(f"{self._seed}/{epoch}")))
        return self._epoch[1]

    def _shuffled(self, generator: random.Random) -> list[list[E]]:
        order = list(self._examples)
        generator.shuffle(order)
        found: list[list[E]] = []
        for start in range(0, len(order), SORTED_CHUNK):
            group: list[E] = []
            for example in sorted(order[start : start + SORTED_CHUNK], key=lambda e: e.length):
                if group and self._is_full(group, example):
                    found.append(group)
                    group = []
                group.append(example)
            found.append(group)
        generator.shuffle(found)
        return found

    def _is_full(self, group: Sequence[E], example: E) -> bool:
        """Tell whether an example, which is no shorter than those, is too much."""
        if self._count:
            return len(group) == self._count
        return example.length * (len(group) + 1) > self._tokens


def padded(columns: int) -> int:
    """Round up the columns of a batch, so that batches have few shapes.

    Kernels are prepared anew for every shape. On a CPU, for a small model, that takes longer than
    computing the padding.
    """
    return -(-columns // MULTIPLE) * MULTIPLE


def collate(group: Sequence[Example], prompt_weight: float = 0.0) -> dict[str, Tensor]:
    """Return `ids` and `weights`, both (B, T): the weight of predicting each id.

    Padding has weight 0 and lies on the right, where causal attention never looks from a token
    that counts; so its id does not matter and no mask is needed.
    """
    import torch

    longest = padded(max(example.length for example in group))
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    weights = torch.zeros(len(group), longest)
    for row, (prompt, answer) in enumerate(group):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        weights[row, 1 : len(prompt)] = prompt_weight
        weights[row, len(prompt) : end] = 1.0
    return {"ids": ids, "weights": weights}
