"""Packed sequences: every block of an answer, and its noisy states, in one forward pass.

Beyond the shape letters of `engine.session`: B sequences, A answer tokens, C copies. A *packed*
sequence trains every block of an answer in one forward pass. Its columns are the prompt, the answer
(the fixed points y* of all blocks, joined) and C noisy copies of the answer (a state y of every
block). A copy's token at answer index a has the position of the answer's token at a. Drawn for a
prompt p, an answer of two blocks of two, and one copy; row i sees column j where there is an x:

                       prompt     answer        copy
                        p   p   y*0 y*1 y*2 y*3 y0  y1  y2  y3
        p               x   .    .   .   .   .   .   .   .   .
        p               x   x    .   .   .   .   .   .   .   .
        y*0  block 1    x   x    x   .   .   .   .   .   .   .      the answer: plain causal,
        y*1  block 1    x   x    x   x   .   .   .   .   .   .      its rows are the teacher
        y*2  block 2    x   x    x   x   x   .   .   .   .   .      and give the AR loss
        y*3  block 2    x   x    x   x   x   x   .   .   .   .
        y0   block 1    x   x    .   .   .   .   x   .   .   .      a copy: the prompt, the fixed
        y1   block 1    x   x    .   .   .   .   x   x   .   .      points of earlier blocks, and
        y2   block 2    x   x    x   x   .   .   .   .   x   .      its own block causally; its
        y3   block 2    x   x    x   x   .   .   .   .   x   x      rows are the student

A block may also be joined to the noisy block before it (progressive consistency): then its rows
see that one in place of its fixed point. Both are one rule: each row of a copy has an index at
which its noisy context begins, sees the clean sequence before that index, and its own copy from
there on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import Cache

CLEAN = -1  # in `Packed.owner`: a column of the prompt or the answer
PADDING = -2


@dataclass(frozen=True)
class Packed:
    """A batch of packed sequences; `clean + C * span` columns, T.

    Attributes:
        ids: Token ids.
        positions: Position in its sequence, prompt included; a copy's token has its original's.
        owner: Which copy a column belongs to, from 0; or `CLEAN`, or `PADDING`.
        begins: For a copy's row the position at which its noisy context begins; else 0.
        fresh: Which columns of a copy stay guesses when the state before it is moved on to it.
        prompts: Length of each prompt.
        answers: Length of each answer.
        clean: Columns of prompt and answer together, padding included.
        span: Columns of each copy, padding included.
    """

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    owner: Tensor  # (B, T)
    begins: Tensor  # (B, T)
    fresh: Tensor  # (B, T) bool
    prompts: Tensor  # (B,)
    answers: Tensor  # (B,)
    clean: int
    span: int

    @property
    def copies(self) -> int:
        """Noisy copies of each answer, C."""
        return (self.ids.shape[1] - self.clean) // self.span

    def columns(self, number: int) -> slice:
        """Return where one copy lies."""
        start = self.clean + number * self.span
        return slice(start, start + self.span)

    def first(self, copies: int) -> Packed:
        """Return the same batch with its first copies alone."""
        end = self.clean + copies * self.span
        names = ("ids", "positions", "owner", "begins", "fresh")
        return replace(self, **{name: getattr(self, name)[:, :end] for name in names})

    def to(self, device: torch.device) -> Packed:
        """Return the batch on another device."""
        names = ("ids", "positions", "owner", "begins", "fresh", "prompts", "answers")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def visible(batch: Packed) -> Tensor:  # (B, T, T) bool
    """Return which columns each row sees: the picture at the top of this file."""
    import torch

    row_copy, column_copy = batch.owner[:, :, None], batch.owner[:, None, :]
    row_begin, column = batch.begins[:, :, None], batch.positions[:, None, :]
    own = (
        (column_copy == row_copy) & (column <= batch.positions[:, :, None]) & (column >= row_begin)
    )
    before = (column_copy == CLEAN) & (column < row_begin)
    # Padding sees itself alone: a row that sees nothing would divide by zero.
    itself = torch.eye(batch.ids.shape[1], dtype=torch.bool, device=batch.ids.device)
    return ((own | before) & (row_copy != PADDING)) | itself


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:  # (B, T, T) -> (B, 1, T, T)
    """Return an attention mask that every kernel and every precision in use takes."""
    import torch

    zeros = torch.zeros(seen.shape, device=seen.device, dtype=dtype)
    return zeros.masked_fill(~seen, torch.finfo(torch.bfloat16).min)[:, None]


def logits_of(
    model: nn.Module,
    batch: Packed,
    cache: Cache | None = None,
    *,
    prompts: bool = False,
) -> Tensor:  # (B, T - t, V)
    """Run one pass; leave out the logits of the t first columns, if no loss reads them.

    Models hand `packing` down to the attention kernel, and all kernels but `plain` ignore it.

    Args:
        model: In training.
        batch: What it reads.
        cache: An empty one gets the keys and values of all columns.
        prompts: Whether prompts are read too: t is 0.
    """
    from cllm_bench.engine.attention import Packing
    from cllm_bench.engine.session import cache_argument

    columns = batch.ids.shape[1]
    keep = columns if prompts else columns - int(batch.prompts.min()) + 1
    logits: Tensor = model(
        input_ids=batch.ids,
        attention_mask=additive(visible(batch), next(model.parameters()).dtype),
        position_ids=batch.positions,
        use_cache=cache is not None,
        logits_to_keep=keep,
        packing=Packing(batch.clean, batch.span),
        **{cache_argument(model): cache},
    ).logits
    return logits


def logits_of_last(
    model: nn.Module,
    batch: Packed,
    copies: int,
    cache: Cache,
) -> Tensor:  # (B, copies * span, V)
    """Run the last copies alone: they see no other ones, and the clean columns are in the cache.

    Gradients reach the clean columns through it, so losses over this pass and the one that filled
    the cache have the gradients that one pass over everything gives.
    """
    import torch

    from cllm_bench.engine.attention import Packing
    from cllm_bench.engine.session import cache_argument

    cache.crop(batch.clean - cache.get_seq_length())  # below 0: so many fewer
    total = batch.ids.shape[1]
    start = total - copies * batch.span
    places = torch.arange(total, device=batch.ids.device)
    seen = visible(batch)[:, start:, (places < batch.clean) | (places >= start)]
    logits: Tensor = model(
        input_ids=batch.ids[:, start:],
        attention_mask=additive(seen, next(model.parameters()).dtype),
        position_ids=batch.positions[:, start:],
        use_cache=True,
        packing=Packing(batch.clean, batch.span),
        **{cache_argument(model): cache},
    ).logits
    return logits


def logits_apart(
    model: nn.Module,
    batch: Packed,
) -> Tensor:  # (B, T, V)
    """Return what `logits_of` does, by plain causal passes and for one state in each copy.

    The form of the paper: one pass over the answer, and one for each copy over the prefix of its
    state and the state. It needs no attention mask, and serves models that take none.
    """
    import torch

    def run(ids: Tensor) -> Tensor:  # (B, clean, V)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    clean = batch.ids[:, : batch.clean]
    places = torch.arange(batch.clean, device=clean.device)
    parts = [run(clean)]
    for number in range(batch.copies):
        columns, held = batch.columns(number), owned(batch, number)
        inner = (places - batch.prompts[:, None]).clamp(0, batch.span - 1)
        state = held.gather(1, inner) & (places >= batch.prompts[:, None])
        state &= places < (batch.prompts + batch.answers)[:, None]
        mixed = torch.where(state, batch.ids[:, columns].gather(1, inner), clean)
        parts.append(answer_rows(run(mixed), replace(batch, ids=clean)))
    return torch.cat(parts, dim=1)


def answer_rows(
    rows: Tensor,  # (B, T or T - t, …)
    batch: Packed,
    shift: int = 0,
) -> Tensor:  # (B, A, …)
    """Return the clean rows at answer indices 0 … A-1, moved by `shift`.

    `shift` -1 gives the rows that predict the answer's tokens. Beyond an answer's end the last
    clean column stands in; masks keep it out of every sum.
    """
    import torch

    left_out = batch.ids.shape[1] - rows.shape[1]
    places = batch.prompts[:, None] + torch.arange(batch.span, device=rows.device) + shift
    places = places.clamp(0, batch.clean - 1) - left_out
    tail = rows.shape[2:]
    return rows.gather(1, places.view(*places.shape, *[1] * len(tail)).expand(-1, -1, *tail))


def copy_rows(
    rows: Tensor,  # (B, T or T - t, …)
    batch: Packed,
    number: int,
) -> Tensor:  # (B, A, …)
    """Return the rows of one copy."""
    columns = batch.columns(number)
    left_out = batch.ids.shape[1] - rows.shape[1]
    return rows[:, columns.start - left_out : columns.stop - left_out]


def inside(batch: Packed, drop: int = 0) -> Tensor:  # (B, A) bool
    """Return which answer indices exist, without the last `drop` of each answer."""
    import torch

    places = torch.arange(batch.span, device=batch.ids.device)
    return places < (batch.answers - drop)[:, None]


def owned(batch: Packed, number: int) -> Tensor:  # (B, A) bool
    """Return which rows of a copy hold a state."""
    return batch.owner[:, batch.columns(number)] == number


def differs(batch: Packed, number: int) -> Tensor:  # (B, A) bool
    """Return which rows of a copy have met a token that differs from y* in their noisy context.

    Before the first such token student and teacher read the same, and have nothing to agree on.
    """
    import torch

    columns = batch.columns(number)
    held = owned(batch, number)
    wrong = (batch.ids[:, columns] != answer_rows(batch.ids, batch)) & held
    places = torch.arange(batch.span, device=wrong.device)
    latest = torch.where(wrong, places, -1).cummax(1).values  # the newest wrong index so far
    begins = batch.begins[:, columns] - batch.prompts[:, None]
    return (latest >= begins) & held & inside(batch, drop=1)


def ar_loss(
    logits: Tensor,  # (B, T or T - t, V)
    batch: Packed,
    smoothing: float = 0.0,
) -> Tensor:  # ()
    """Return the sum of the cross-entropies of all answer tokens, in nats."""
    from torch.nn.functional import cross_entropy

    rows = answer_rows(logits, batch, shift=-1).float()
    losses = cross_entropy(
        rows.flatten(0, 1),
        answer_rows(batch.ids, batch).flatten(),
        reduction="none",
        label_smoothing=smoothing,
    )
    return (losses * inside(batch).flatten()).sum()


def told(batch: Packed) -> Tensor:  # (B, clean) bool
    """Return which clean columns hold a prompt or an answer."""
    return batch.owner[:, : batch.clean] == CLEAN


def prompt_loss(
    logits: Tensor,  # (B, T, V)
    batch: Packed,
) -> Tensor:  # ()
    """Return the sum of the cross-entropies of all prompt tokens but the first, in nats."""
    from torch.nn.functional import cross_entropy

    rows, ids = logits[:, : batch.clean - 1].float(), batch.ids[:, 1 : batch.clean]
    losses = cross_entropy(rows.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
    inner = batch.positions[:, 1 : batch.clean] < batch.prompts[:, None]
    return (losses * (inner & told(batch)[:, 1:])).sum()


def anchor_loss(
    logits: Tensor,  # (B, T, V)
    target: Tensor,  # (B, clean, V)
    batch: Packed,
) -> Tensor:  # ()
    """Return how far a model has gone from its target on prompts and answers, in nats.

    The mean of the forward divergences over their rows, times the number of answer tokens, as
    which it is summed.
    """
    from ..recipes.losses import divergence

    rows = told(batch)
    apart = divergence(target[rows], logits[:, : batch.clean][rows], "forward_kl")
    return apart.mean() * batch.answers.sum()


def advance(
    logits: Tensor,  # (B, T or T - t, V)
    batch: Packed,
    number: int,
) -> Tensor:  # (B, A)
    """Return the state that one Jacobi iteration makes of a copy.

    Where a row's noisy context begins stands a settled token; every other token becomes the argmax
    of the row before it.
    """
    import torch

    columns = batch.columns(number)
    predicted = copy_rows(logits, batch, number).argmax(-1).roll(1, dims=1)
    head = batch.begins[:, columns] == batch.positions[:, columns]
    return torch.where(head, batch.ids[:, columns], predicted)
