"""Measures how far rounding moves a model's choices between forward passes of different shapes.

A pass over several rows adds up the same products in another order than a pass over one, and its
logits differ by some roundings: by about 1e-5 in float32, by more than 0.1 in bfloat16. How much
depends on the model's depth and width, on the kernels and on the engine, so it is measured: the
baseline's own replies are run again, with every token given, in passes of the shapes that methods
use. What decides between two tokens is the *margin*, the difference of their logits: a shift of all
logits changes no choice, and logits of one size are rounded alike. So margins are what is compared.

**Tolerance.** Let two passes choose different tokens at a position, and a third one judge which
of the two it may be. Small margins are about equally frequent, whatever their size. So a change d
of the margin turns a choice in proportion to |d|, and the margin that the third pass sees there is
anything from 0 to |d| alike. Of all choices that rounding turns, the share with a margin beyond t
is therefore

    E[max(|d| - t, 0)] / E[|d|]

and the tolerance is the least t for which it is at most `BEYOND`. The largest change seen would not
do: it grows with the sample, and it comes from positions where nothing is near the best. (`mini` in
bfloat16, random prompts: a largest change of 0.19 in 500 positions and of 0.5 in 16,000; the
tolerance is 0.1875 in every part of them. Of 482 choices that rounding turned, all had a margin
within it, and 29 one of more than 0.0625.)

**Expected ties.** The margin m between the two likeliest tokens at a position turns its sign with
the probability P(|d| > m) / 2, where d is the change from one row to the shape in question, as
likely upwards as downwards. Margins of low precision are often equal to a change: then the two
tokens are level, and the one with the lower id is chosen. The mean over positions is the rate at
which a method's tokens part from the baseline's by rounding alone. It comes slightly high (on
`mini` 17 replies of 40 are expected at 16 rows where 12 to 19 part): logits of two tokens that are
level round alike more often than others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cllm_bench.decoding.sampling import Chooser

if TYPE_CHECKING:
    from cllm_bench.contracts import Sampling
    from cllm_bench.engine.session import Session

BEYOND = 1e-3  # of the choices that rounding turns, those that may count as mismatches
CHAINS = (2, 4, 8, 16, 32)  # rows
TREE = 16  # rows: half of them the reply's own tokens
PREFILLS = 4  # of each reply, as verdicts run them
CANDIDATES = 4  # likeliest tokens, whose margins are compared

_ONE = "1"
_PREFILL = "prefill"


class Reply(NamedTuple):
    """A reply of the baseline."""

    prompt_ids: Tensor  # (P,)
    token_ids: Sequence[int]
    sampling: Sampling

    @property
    def fed(self) -> list[int]:
        """The tokens that a method feeds: all but the last."""
        return list(self.token_ids[:-1])


@dataclass(frozen=True, slots=True)
class Spread:
    """How far rounding moves the choices of a model.

    Attributes:
        tolerance: What a token's logit may lack of the best one for rounding to explain its choice.
        within: Share of positions whose two likeliest tokens are that close.
        flips: Share of positions at which a pass chooses another token than a pass over one row, by
            its shape: the number of its rows, with a `t` for a tree.
    """

    tolerance: float
    within: float
    flips: Mapping[str, float]


class RoundingMeter:
    """Runs replies again in passes of all shapes, and compares the margins.

    Args:
        session: On the weights; what it holds is lost.
        temperature: Of the sampling, by which scores divide logits; 0 as in greedy decoding.

    Attributes:
        replies: Replies compared so far.
    """

    def __init__(self, session: Session, temperature: float = 0.0) -> None:
        self._session = session
        self._temperature = temperature or 1.0
        self._gaps: list[Tensor] = []  # (N,) each: between the two best scores
        self._margins: dict[str, list[Tensor]] = {}  # by shape, (N, CANDIDATES - 1) each
        self.replies = 0

    @property
    def positions(self) -> int:
        """Tokens compared so far."""
        return sum(map(len, self._gaps))

    def add(self, reply: Reply) -> None:
        """Run one reply in passes of every shape; its first token, a prefill's, is not compared.

        Raises:
            UserError: The model has no positions for it.
        """
        if len(reply.token_ids) < 2:
            return
        single = list(self._chain(reply, 1))
        likeliest = torch.cat([_likeliest(each.logits) for each in single])
        gaps = self._gaps_of(reply, single)
        passes: dict[str, Iterable[_Pass]] = {_ONE: single}
        passes |= {str(rows): self._chain(reply, rows) for rows in CHAINS}
        passes |= {f"{TREE}t": self._tree(reply), _PREFILL: self._prefills(reply)}
        found = {shape: _margins(logits, likeliest) for shape, logits in passes.items()}
        for shape, margins in found.items():
            self._margins.setdefault(shape, []).append(margins)
        self._gaps.append(gaps)
        self.replies += 1

    def spread(self) -> Spread:
        """Return what all replies together tell.

        Raises:
            ValueError: There is no position.
        """
        if not self._gaps:
            raise ValueError("no reply has a token to compare")
        gaps = torch.cat(self._gaps)
        margins = {shape: torch.cat(found) for shape, found in self._margins.items()}
        pairs = itertools.combinations(margins.values(), 2)
        limit = tolerance(torch.cat([_changes(one, other) for one, other in pairs]))
        one = margins.pop(_ONE)
        del margins[_PREFILL]
        return Spread(
            limit,
            float((gaps <= limit / self._temperature).double().mean()),
            {
                shape: flip_rate(_changes(one, other) / self._temperature, gaps)
                for shape, other in margins.items()
            },
        )

    def _gaps_of(self, reply: Reply, single: Sequence[_Pass]) -> Tensor:  # (N,)
        """Return by how much the best score of each position is ahead of the second best."""
        choose = Chooser(reply.sampling, self._session.device)
        scores = [choose.scores(logits, places.start + 1) for logits, places in single]
        best = torch.cat([each.topk(2).values.double() for each in scores])
        return (best[:, 0] - best[:, 1]).cpu()

    def _chain(self, reply: Reply, rows: int) -> Iterator[_Pass]:
        session, fed = self._session, reply.fed
        session.prefill(reply.prompt_ids)
        for start in range(0, len(fed), rows):
            tokens = fed[start : start + rows]
            logits = session.forward(tokens).logits
            session.keep(len(tokens))
            yield _Pass(logits, range(start, start + len(tokens)))

    def _tree(self, reply: Reply) -> Iterator[_Pass]:
        """Run a comb: beside each token of the reply stands another one that leads nowhere.

               a  a'  b  b'
        a      x
        a'        x
        b      x      x
        b'     x         x
        """
        session, fed, depths = self._session, reply.fed, TREE // 2
        wrong = session.prefill(reply.prompt_ids).logits[0].argmin()
        for start in range(0, len(fed), depths):
            tokens = torch.tensor(fed[start : start + depths], device=session.device)
            count = len(tokens)
            depth = torch.arange(count, device=session.device).repeat_interleave(2)
            mask = torch.eye(2 * count, dtype=torch.bool, device=session.device)
            mask[:, ::2] |= depth[:, None] > depth[::2]
            ids = torch.stack([tokens, wrong.expand(count)], dim=1).flatten()
            logits = session.forward(ids, depth=depth, mask=mask).logits[::2]
            session.keep(torch.arange(0, 2 * count, 2))
            yield _Pass(logits, range(start, start + count))

    def _prefills(self, reply: Reply) -> Iterator[_Pass]:
        fed, prompt = reply.fed, reply.prompt_ids
        for place in range(0, len(fed), -(-len(fed) // PREFILLS)):
            forced = torch.cat([prompt, prompt.new_tensor(fed[: place + 1])])
            yield _Pass(self._session.prefill(forced).logits, range(place, place + 1))


class _Pass(NamedTuple):
    """What a pass says at some positions of a reply."""

    logits: Tensor  # (T, V)
    places: range  # (T,)


def _likeliest(logits: Tensor) -> Tensor:  # (T, V) -> (T, CANDIDATES)
    return logits.topk(min(CANDIDATES, logits.shape[-1])).indices


def _margins(
    passes: Iterable[_Pass],
    likeliest: Tensor,  # (N, K)
) -> Tensor:  # (N, K - 1), NaN where no pass says anything
    """Return how far the likeliest token of each position is ahead of the next ones."""
    margins = torch.full((len(likeliest), likeliest.shape[1] - 1), torch.nan, dtype=torch.float64)
    for logits, places in passes:
        own = slice(places.start, places.stop)
        values = logits.gather(-1, likeliest[own]).double()
        margins[own] = (values[:, :1] - values[:, 1:]).cpu()
    return margins


def _changes(one: Tensor, other: Tensor) -> Tensor:  # (N,)
    """Return by how much margins differ, where two shapes have both; -inf has no margin."""
    sizes = (one - other).abs().flatten()
    return sizes[sizes.isfinite()]


def tolerance(
    changes: Tensor,  # (N,), not negative
) -> float:
    """Return the least margin beyond which lie at most `BEYOND` of the choices that changes turn.

    Raises:
        ValueError: There is no change.
    """
    if not len(changes):
        raise ValueError("no margin was measured in two shapes of pass")
    sizes = changes.double().sort().values
    above = sizes.sum() - sizes.cumsum(0)  # of those that follow
    count = torch.arange(len(sizes) - 1, -1, -1, dtype=torch.float64)
    beyond = above - count * sizes  # sum of max(size - t, 0) at t = each of them
    return float(sizes[int((beyond <= BEYOND * sizes.sum()).double().argmax())])


def flip_rate(
    changes: Tensor,  # (N,), not negative
    gaps: Tensor,  # (positions,)
) -> float:
    """Return the share of positions whose choice such changes of the margin turn."""
    sizes = changes.double().sort().values
    gaps = gaps.double()
    beyond = 1 - torch.searchsorted(sizes, gaps, right=True) / max(1, len(sizes))
    equal = 1 - torch.searchsorted(sizes, gaps) / max(1, len(sizes)) - beyond
    return float((beyond + equal * (gaps > 0) / 2).mean() / 2)
