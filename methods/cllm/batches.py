"""Answers and their noisy states as packed batches, and the loss of one batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..recipes.examples import Example, collate, padded
from ..recipes.losses import Divergence
from .objectives import CLEAN, PADDING, Objective, Packed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cllm_bench.training.trainer import LossSum

    from ..trajectories.collect import Record

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class States:
    """Which states a batch trains on, and how.

    Attributes:
        block_size: Tokens in a block, n.
        source: `recorded` takes states from trajectories; `online` makes them in the training
            pass: fresh guesses, and what the model in training makes of them, iteration by
            iteration.
        copies: States of every block that one pass trains on, in chains of `iterations`.
        iterations: States in a chain, each one Jacobi iteration after the one before it.
        guess: Where fresh guesses come from (online only); as inference will make them.
        pad_id: The guess of `pad`.
        vocabulary: Token ids that `vocab` guesses from, V.
        objective: See `consistency.consistency_loss`.
        divergence: Between teacher and student.
        form: `packed` trains all blocks of an answer in one pass; `single` one block of each, by
            plain causal passes.
        shift: Let blocks begin at a random place in the answer (online states only).
        window: Blocks that share one noisy context (progressive only).
        ar_weight: Weight of the AR loss, w.
        cached: Whether the model keeps keys and values while it trains (packed online states).
    """

    block_size: int
    source: Literal["recorded", "online"]
    copies: int
    iterations: int
    guess: Literal["prompt", "vocab", "pad", "last"]
    pad_id: int
    vocabulary: int
    objective: Objective
    divergence: Divergence
    form: Literal["packed", "single"]
    shift: bool
    window: int
    ar_weight: float
    cached: bool

    @property
    def chains(self) -> int:
        """Trajectories of every block; copies stand in order of iteration, then of chain."""
        return self.copies // self.iterations


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

    clean = padded(max(len(answer.prompt) + len(answer.tokens) for answer in answers))
    span = padded(max(len(answer.tokens) for answer in answers))
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


def _copies(answer: Answer, states: States, generator: random.Random) -> list[_Copy]:
    """Return the copies; an online chain begins with all its states alike, and the loss moves on.

    Chains differ in where blocks begin (online), in their places along the trajectories (recorded)
    and in which block is how noisy (progressive).
    """
    chosen = generator.random()  # where in the answer lies the block of a copy that holds one only
    chains = [_chain(answer, states, chosen, generator) for _ in range(states.chains)]
    return [chain[step] for step in range(states.iterations) for chain in chains]


def _chain(answer: Answer, states: States, chosen: float, generator: random.Random) -> list[_Copy]:
    """Return the copies of one chain, in order."""
    size, length = states.block_size, len(answer.tokens)
    first = generator.randrange(size) if states.shift and states.source == "online" else 0
    starts = [0, *range(first or size, length, size)]
    bounds = list(zip(starts, [*starts[1:], length], strict=True))
    # By its length, as the loss takes a block for so many tokens: a short last one is drawn seldom.
    held = int(chosen * length)
    phase = generator.randrange(states.window)
    found = [_Copy([], [], []) for _ in range(states.iterations)]
    context = 0
    for block, (start, end) in enumerate(bounds):
        turn = (block + phase) % states.window
        if states.objective != "progressive" or turn == 0:
            context = start
        share = _share(turn, states.window) if states.objective == "progressive" else None
        if states.source == "online":
            guesses = _guesses(answer, start, end, states, generator)
            fresh = _unconverged(guesses, answer.tokens[start:end], share)
            chain: list[Sequence[int]] = [fresh] * states.iterations
        else:
            chain = [*_recorded(answer.states[block], states.iterations, generator, share)]
        for copy, state in zip(found, chain, strict=True):
            copy.tokens.extend(state)
            copy.begins.extend([context] * (end - start))
            copy.held.extend([states.form == "packed" or start <= held < end] * (end - start))
    return found


def _share(turn: int, window: int) -> float:
    """Return how much of a block is to be unconverged: from none to all along a window."""
    return turn / (window - 1) if window > 1 else 1.0


def _guesses(
    answer: Answer, start: int, end: int, states: States, generator: random.Random
) -> list[int]:
    """Return a block as inference begins it: its settled first token, then fresh guesses.

    Guesses from the prompt are drawn from it and the output up to that first token.
    """
    head, count = answer.tokens[start], end - start - 1
    if states.guess == "prompt":
        seen = answer.prompt + answer.tokens[: start + 1]
        return [head, *generator.choices(seen, k=count)]
    if states.guess == "vocab":
        return [head, *(generator.randrange(states.vocabulary) for _ in range(count))]
    return [head, *[states.pad_id if states.guess == "pad" else head] * count]


def _unconverged(guess: Sequence[int], fixed: Tokens, share: float | None) -> Sequence[int]:
    """Let all but a share of a state have converged: settled tokens come first."""
    if share is None:
        return guess
    right = len(fixed) - round(share * (len(fixed) - 1))
    return (*fixed[:right], *guess[right:])


def _recorded(
    trajectory: tuple[Tokens, ...],
    iterations: int,
    generator: random.Random,
    share: float | None,
) -> list[Tokens]:
    """Pick a state that has not converged, at random or by its unconverged share; and the next."""
    step = generator.randrange(max(1, len(trajectory) - 1))
    if share is not None:
        fixed = trajectory[-1]
        wanted = share * (len(fixed) - 1)
        distances = [abs(_unsettled(state, fixed) - wanted) for state in trajectory]
        step = distances.index(min(distances))
    last = len(trajectory) - 1
    return [trajectory[min(step + more, last)] for more in range(iterations)]


def _unsettled(state: Tokens, fixed: Tokens) -> int:
    """Count the tokens from the first wrong one on."""
    pairs = enumerate(zip(state, fixed, strict=True))
    return next((len(fixed) - index for index, (a, b) in pairs if a != b), 0)


def cllm_loss(model: nn.Module, batch: Batch, states: States) -> LossSum:
    """Return L_consistency + w · L_AR of a batch, summed over its answer tokens."""
    from cllm_bench.training.trainer import LossSum

    from ..recipes.losses import answer_loss
    from .objectives import ar_loss, consistency_loss

    device = next(model.parameters()).device
    logits, packed = run(model, batch.packed.to(device), states)
    pairs = states.chains if states.objective == "local" else 0
    consistency = consistency_loss(logits, packed, states.divergence, pairs)
    if batch.references is None:
        ar = ar_loss(logits, packed)
    else:
        ar = answer_loss(model, batch.references).total
    return LossSum(
        consistency + states.ar_weight * ar,
        float(batch.packed.answers.sum()),
        {"consistency_loss": consistency.detach(), "ar_loss": ar.detach()},
    )


def run(
    model: nn.Module, packed: Packed, states: States
) -> tuple[Tensor, Packed]:  # (B, T or T - t, V) logits
    """Return the logits of a batch, and the batch with the online states that they are of.

    Every further state of a chain is what one more Jacobi iteration makes of the one before. So
    states of one iteration run together, and read the clean columns, which are the same for all,
    from a cache; where there is none, passes without gradients find the states beforehand.
    """
    import torch
    from transformers import DynamicCache

    from .objectives import logits_apart, logits_of, logits_of_last

    whole = logits_of if states.form == "packed" else logits_apart
    if states.source == "recorded" or states.iterations == 1:
        return whole(model, packed), packed
    if not states.cached:
        with torch.no_grad():
            for step in range(1, states.iterations):
                logits = whole(model, packed.first(step * states.chains))
                packed = moved_on(packed, logits, step, states.chains)
        return whole(model, packed), packed
    cache = DynamicCache()
    logits = logits_of(model, packed.first(states.chains), cache)
    for step in range(1, states.iterations):
        packed = moved_on(packed, logits.detach(), step, states.chains)
        part = packed.first((step + 1) * states.chains)
        more = logits_of_last(model, part, states.chains, cache)
        logits = torch.cat([logits, more], dim=1)
    return logits, packed


def moved_on(packed: Packed, logits: Tensor, step: int, chains: int) -> Packed:
    """Make the states of one iteration what the pass over those before makes of the last ones."""
    from .objectives import advance

    part = packed.first(step * chains)
    ids = packed.ids.clone()  # autograd still needs the old ones
    for copy in range(part.copies - chains, part.copies):
        ids[:, packed.columns(copy + chains)] = advance(logits, part, copy)
    return replace(packed, ids=ids)
