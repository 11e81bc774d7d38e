"""Answers and their noisy states as packed batches, and the loss of one batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from .answers import Example, collate
from .consistency import CLEAN, PADDING, Divergence, Objective, Packed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cllm_bench.optimise import LossSum

    from .collection import Record

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class States:
    """Which states a batch trains on, and how.

    Attributes:
        block_size: Tokens in a block, n.
        source: `recorded` takes states from trajectories; `online` makes them in the training
            pass: fresh guesses, and what the model in training makes of them, iteration by
            iteration.
        copies: States of every block that one pass trains on. Local consistency pairs them.
        objective: See `consistency.consistency_loss`.
        divergence: Between teacher and student.
        form: `packed` trains all blocks of an answer in one pass; `single` one block of each, by
            plain causal passes.
        shift: Let blocks begin at a random place in the answer (online states only).
        window: Blocks that share one noisy context (progressive only).
        ar_weight: Weight of the AR loss, w.
    """

    block_size: int
    source: Literal["recorded", "online"]
    copies: int
    objective: Objective
    divergence: Divergence
    form: Literal["packed", "single"]
    shift: bool
    window: int
    ar_weight: float


class Answer(NamedTuple):
    """One answer of the model that is learned from.

    Attributes:
        prompt: Ids of the question.
        tokens: Ids of the answer: the fixed points of its blocks, joined.
        states: For each block its trajectory, the fixed point last; empty for online states.
        reference: The data set's own answer, where the AR loss is to be taken on it.
        copies: Noisy copies to be packed beside it.
    """

    prompt: Tokens
    tokens: Tokens
    states: tuple[tuple[Tokens, ...], ...]
    reference: Tokens | None
    copies: int

    @property
    def length(self) -> int:
        """Columns of a packed sequence."""
        return len(self.prompt) + len(self.tokens) * (1 + self.copies)


class Batch(NamedTuple):
    """What one forward pass trains on.

    Attributes:
        packed: Answers and noisy copies.
        references: Ids and weights of the data set's own answers, if the AR loss is theirs.
    """

    packed: Packed
    references: dict[str, Tensor] | None


def answers_of(
    records: Sequence[Record], copies: int, references: dict[tuple[str, str], Tokens] | None
) -> list[Answer]:
    """Join the records of each question; those of one question must stand together, in order."""
    found = []
    for key, group in groupby(records, key=lambda record: (record.task, record.sample)):
        blocks = list(group)
        tokens = sum((block.fixed_point for block in blocks), ())
        states = tuple(block.states for block in blocks)
        reference = None if references is None else references[key]
        found.append(Answer(blocks[0].prompt, tokens, states, reference, copies))
    return found


def make_batch(answers: Sequence[Answer], states: States, generator: random.Random) -> Batch:
    """Draw a state for every copy of every block, and pack them."""
    references = None
    if answers[0].reference is not None:
        references = collate([Example(list(a.prompt), list(a.reference or ())) for a in answers])
        # Each answer weighs as much as the one that it stands for, whatever its length.
        shares = [len(a.tokens) / len(a.reference or (0,)) for a in answers]
        references["weights"] *= references["weights"].new_tensor(shares)[:, None]
    return Batch(pack(answers, states, generator), references)


def pack(answers: Sequence[Answer], states: States, generator: random.Random) -> Packed:
    """Return the packed batch; see the picture in `consistency`."""
    import torch

    clean = max(len(answer.prompt) + len(answer.tokens) for answer in answers)
    span = max(len(answer.tokens) for answer in answers)
    columns = clean + states.copies * span
    shape = (len(answers), columns)
    ids, positions, begins = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    owner = torch.full(shape, PADDING)
    for row, answer in enumerate(answers):
        prompt, end = len(answer.prompt), len(answer.prompt) + len(answer.tokens)
        ids[row, :end] = torch.tensor(answer.prompt + answer.tokens)
        positions[row, :end] = torch.arange(end)
        owner[row, :end] = CLEAN
        for number, noisy in enumerate(_copies(answer, states, generator)):
            start = clean + number * span
            place = slice(start, start + len(answer.tokens))
            ids[row, place] = torch.tensor(noisy.tokens)
            positions[row, place] = torch.arange(prompt, end)
            begins[row, place] = torch.tensor(noisy.begins) + prompt
            owner[row, place] = torch.where(torch.tensor(noisy.held), number, PADDING)
    lengths = [[len(part) for part in (a.prompt, a.tokens)] for a in answers]
    prompts, ends = torch.tensor(lengths).unbind(1)
    return Packed(ids, positions, owner, begins, prompts, ends, clean, span)


class _Copy(NamedTuple):
    """One noisy copy: token, beginning of the noisy context, and use, by answer index."""

    tokens: list[int]
    begins: list[int]
    held: list[bool]


def _copies(answer: Answer, states: States, generator: random.Random) -> Iterator[_Copy]:
    """Yield the copies; for online states all are the first, and the loss moves them on."""
    size, length = states.block_size, len(answer.tokens)
    first = generator.randrange(size) if states.shift and states.source == "online" else 0
    starts = [0, *range(first or size, length, size)]
    phase = generator.randrange(states.window)
    chosen = generator.randrange(len(starts))
    steps = [generator.random() for _ in starts]  # how far along its trajectory each block is
    guesses = _guesses(answer, starts, generator)
    for number in range(states.copies):
        copy = _Copy([], [], [])
        context = 0
        for block, (start, end) in enumerate(zip(starts, [*starts[1:], length], strict=True)):
            turn = (block + phase + (number if states.source == "recorded" else 0)) % states.window
            if states.objective != "progressive" or turn == 0:
                context = start
            share = turn / max(1, states.window - 1) if states.objective == "progressive" else None
            fixed = answer.tokens[start:end]
            if states.source == "online":
                state = _unconverged(guesses[start:end], fixed, share)
            else:
                state = _recorded(answer.states[block], states, steps[block], number, share)
                if states.objective == "global":
                    steps[block] = generator.random()
            copy.tokens.extend(state)
            copy.begins.extend([context] * len(fixed))
            copy.held.extend([states.form == "packed" or block == chosen] * len(fixed))
        yield copy


def _guesses(answer: Answer, starts: Sequence[int], generator: random.Random) -> list[int]:
    """Return a fresh guess for every token but the blocks' first, as inference makes them.

    Inference draws from the prompt and the output so far, up to the block's settled first token.
    """
    seen = answer.prompt + answer.tokens
    found: list[int] = []
    for start, end in zip(starts, [*starts[1:], len(answer.tokens)], strict=True):
        known = len(answer.prompt) + start + 1
        found.append(answer.tokens[start])
        found += [seen[int(generator.random() * known)] for _ in range(end - start - 1)]
    return found


def _unconverged(guess: Sequence[int], fixed: Tokens, share: float | None) -> Sequence[int]:
    """Let all but a share of a state have converged: settled tokens come first."""
    if share is None:
        return guess
    right = len(fixed) - round(share * (len(fixed) - 1))
    return (*fixed[:right], *guess[right:])


def _recorded(
    trajectory: tuple[Tokens, ...], states: States, place: float, number: int, share: float | None
) -> Tokens:
    """Pick a state: at random, the next one for a local pair, or by its unconverged share."""
    noisy = max(1, len(trajectory) - 1)
    if share is not None:
        fixed = trajectory[-1]
        wanted = share * (len(fixed) - 1)
        return min(trajectory, key=lambda state: abs(_unsettled(state, fixed) - wanted))
    step = int(place * noisy)
    if states.objective == "local":
        step = min(step + number, len(trajectory) - 1)
    return trajectory[step]


def _unsettled(state: Tokens, fixed: Tokens) -> int:
    """Count the tokens from the first wrong one on."""
    pairs = enumerate(zip(state, fixed, strict=True))
    return next((len(fixed) - index for index, (a, b) in pairs if a != b), 0)


def cllm_loss(model: nn.Module, batch: Batch, states: States) -> LossSum:
    """Return L_consistency + w · L_AR of a batch, summed over its answer tokens."""
    from cllm_bench.optimise import LossSum

    from .consistency import ar_loss, consistency_loss, logits_apart, logits_of
    from .target_recipe import answer_loss

    device = next(model.parameters()).device
    packed = batch.packed.to(device)
    run = logits_of if states.form == "packed" else logits_apart
    if states.source == "online":
        move_on(model, packed, states)
    logits = run(model, packed)
    consistency = consistency_loss(logits, packed, states.divergence, states.objective)
    if batch.references is None:
        ar = ar_loss(logits, packed)
    else:
        ar = answer_loss(model, batch.references).total
    return LossSum(
        consistency + states.ar_weight * ar,
        float(batch.packed.answers.sum()),
        {"consistency_loss": consistency.detach(), "ar_loss": ar.detach()},
    )


def move_on(model: nn.Module, packed: Packed, states: States) -> None:
    """Make every further copy what one more Jacobi iteration makes of the one before it."""
    import torch

    from .consistency import advance, logits_apart, logits_of

    run = logits_of if states.form == "packed" else logits_apart
    with torch.no_grad():
        for number in range(packed.copies - 1):
            part = packed.first(number + 1)
            columns = packed.columns(number + 1)
            packed.ids[:, columns] = advance(run(model, part), part, number)
