"""Answers and their noisy states as packed batches, and the loss of one batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from cllm_bench.errors import UserError

from ..recipes.examples import Example, collate, padded
from .comparison import PackedLogits
from .packing import CLEAN, PADDING, Packed
from .states import Answer, States, Tokens, noisy_copies

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cllm_bench.contracts import Objective, StateBatch
    from cllm_bench.training.trainer import LossSum

    from ..trajectories.collect import Record


class Batch(NamedTuple):
    """What one forward pass trains on.

    Attributes:
        packed: Answers and noisy copies.
        references: Ids and weights of the data set's own answers, if the AR loss is theirs.
        ahead: Jacobi iterations that the first states of the chains have behind them.
    """

    packed: Packed
    references: dict[str, Tensor] | None
    ahead: int = 0


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


def make_batch(
    answers: Sequence[Answer], states: States, generator: random.Random, ahead: int = 0
) -> Batch:
    """Draw a state for every copy of every block, and pack them; `ahead` is the batch's."""
    references = None
    if answers[0].reference is not None:
        references = collate([Example(list(a.prompt), list(a.reference or ())) for a in answers])
        # Each answer weighs as much as the one that it stands for, whatever its length.
        shares = [len(a.tokens) / len(a.reference or (0,)) for a in answers]
        references["weights"] *= references["weights"].new_tensor(shares)[:, None]
    return Batch(pack(answers, states, generator), references, ahead)


def pack(answers: Sequence[Answer], states: States, generator: random.Random) -> Packed:
    """Return the packed batch; see the picture in `packing`."""
    import torch

    clean = padded(max(len(answer.prompt) + len(answer.tokens) for answer in answers))
    span = padded(max(len(answer.tokens) for answer in answers))
    columns = clean + states.copies * span
    shape = (len(answers), columns)
    ids, positions, begins = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    fresh = torch.zeros(shape, dtype=torch.bool)
    owner = torch.full(shape, PADDING)
    for row, answer in enumerate(answers):
        prompt, end = len(answer.prompt), len(answer.prompt) + len(answer.tokens)
        ids[row, :end] = torch.tensor(answer.prompt + answer.tokens)
        positions[row, :end] = torch.arange(end)
        owner[row, :end] = CLEAN
        for number, noisy in enumerate(noisy_copies(answer, states, generator)):
            start = clean + number * span
            place = slice(start, start + len(answer.tokens))
            ids[row, place] = torch.tensor(noisy.tokens)
            positions[row, place] = torch.arange(prompt, end)
            begins[row, place] = torch.tensor(noisy.begins) + prompt
            owner[row, place] = torch.where(torch.tensor(noisy.held), number, PADDING)
            fresh[row, place] = torch.tensor(noisy.fresh)
    lengths = [[len(part) for part in (a.prompt, a.tokens)] for a in answers]
    prompts, ends = torch.tensor(lengths).unbind(1)
    return Packed(ids, positions, owner, begins, fresh, prompts, ends, clean, span)


def cllm_loss(
    model: nn.Module, batch: Batch, states: States, target: nn.Module | None = None
) -> LossSum:
    """Return the objective's losses and what stands beside them, summed over answer tokens.

    Args:
        model: In training.
        batch: What it learns from.
        states: How.
        target: Frozen; what the model is anchored to, if it is.
    """
    import torch

    from cllm_bench.training.trainer import LossSum

    from ..recipes.losses import answer_loss
    from .packing import anchor_loss, ar_loss, prompt_loss

    device, terms = next(model.parameters()).device, states.terms
    logits, packed = run(model, batch.packed.to(device), states, batch.ahead)
    compared = PackedLogits(packed, logits, states.chains)
    learnt = losses_of(states.objective, compared)
    if terms.counted:
        share = packed.answers.sum() / compared.counted.clamp(min=1)
        learnt = {name: loss * share for name, loss in learnt.items()}
    if batch.references is None:
        ar = ar_loss(logits, packed, terms.label_smoothing)
    else:
        ar = answer_loss(model, batch.references, terms.label_smoothing).total
    if terms.prompt_weight:
        ar = ar + terms.prompt_weight * prompt_loss(logits, packed)
    first, *more = learnt.values()
    total, parts = sum(more, first) + terms.ar_weight * ar, {**learnt, "ar_loss": ar}
    if target is not None:
        with torch.no_grad():
            expected = target(input_ids=packed.ids[:, : packed.clean], use_cache=False).logits
        parts["anchor_loss"] = anchor_loss(logits, expected, packed)
        total = total + terms.anchor_weight * parts["anchor_loss"]
    count = float(batch.packed.answers.sum())
    return LossSum(total, count, {name: loss.detach() for name, loss in parts.items()})


def rehearse(states: States) -> None:
    """Try the objective on a made-up batch: a mistake in it is told before hours of collecting.

    Raises:
        UserError: It gives states or losses that do not do.
    """
    import torch

    size, rows = states.block_size, 8  # of so many tokens is the vocabulary here
    tokens = tuple(index % rows for index in range(2 * size + 1))
    blocks = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    trajectories = tuple(((block[0], *[0] * (len(block) - 1)), block) for block in blocks)
    answer = Answer((1, 2), tokens, trajectories, None, states.copies)
    states = replace(states, vocabulary=rows, pad_id=0)
    packed = pack([answer], states, random.Random(0))
    shape = (*packed.ids.shape, rows)
    logits = torch.arange(packed.ids.numel() * rows, dtype=torch.float32).sin().view(shape)
    losses_of(states.objective, PackedLogits(packed, logits.requires_grad_(), states.chains))


def losses_of(objective: Objective, batch: StateBatch) -> Mapping[str, Tensor]:  # each ()
    """Return the terms of an objective's loss.

    Raises:
        UserError: It gives none, or some that cannot be logged beside the AR loss.
    """
    terms = objective.losses(batch)
    good = all(
        name.endswith("_loss") and name != "ar_loss" and getattr(term, "shape", None) == ()
        for name, term in terms.items()
    )
    if not terms or not good:
        told = {name: tuple(getattr(term, "shape", (type(term),))) for name, term in terms.items()}
        raise UserError(
            f"objective {type(objective).__name__}: losses() must give sums of shape () under "
            f"names that end in _loss, other than ar_loss, not {told}"
        )
    return terms


def run(
    model: nn.Module, packed: Packed, states: States, ahead: int = 0
) -> tuple[Tensor, Packed]:  # (B, T or T - t, V) logits
    """Return the logits of a batch, and the batch with the online states that they are of.

    Every further state of a chain is what one more Jacobi iteration makes of the one before. So
    states of one iteration run together, and read the clean columns, which are the same for all,
    from a cache; where there is none, passes without gradients find the states beforehand, as they
    find those before the first one of a chain.
    """
    import torch
    from transformers import DynamicCache

    from .packing import logits_apart, logits_of, logits_of_last

    whole: Callable[[nn.Module, Packed], Tensor] = logits_apart
    if states.form == "packed":
        whole = partial(logits_of, prompts=states.terms.prompts)
    chains = states.chains
    steps = range(1, states.iterations if states.source == "online" else 1)
    unseen = [(0, 0)] * ahead + [(step - 1, step) for step in steps if not states.cached]
    with torch.no_grad():
        for before, after in unseen:
            logits = whole(model, packed.first((before + 1) * chains))
            packed = moved_on(packed, logits, before * chains, after * chains, chains)
    if not (steps and states.cached):
        return whole(model, packed), packed
    cache = DynamicCache()
    logits = logits_of(model, packed.first(chains), cache, prompts=states.terms.prompts)
    for step in steps:
        packed = moved_on(packed, logits.detach(), (step - 1) * chains, step * chains, chains)
        part = packed.first((step + 1) * chains)
        more = logits_of_last(model, part, chains, cache)
        logits = torch.cat([logits, more], dim=1)
    return logits, packed


def moved_on(packed: Packed, logits: Tensor, first: int, to: int, count: int) -> Packed:
    """Make copies what one Jacobi iteration makes of others, but for what stays a fresh guess.

    Args:
        packed: The batch.
        logits: Of its copies up to those that are moved on.
        first: Number of the first copy that is moved on.
        to: Number of the first copy that is made.
        count: Copies.
    """
    import torch

    from .packing import advance

    part = packed.first(first + count)
    ids = packed.ids.clone()  # autograd still needs the old ones
    for copy in range(count):
        place = packed.columns(to + copy)
        made = advance(logits, part, first + copy)
        ids[:, place] = torch.where(packed.fresh[:, place], packed.ids[:, place], made)
    return replace(packed, ids=ids)
