"""Medusa: heads on the model's last hidden state guess a tree of tokens, one pass checks it.

Source: Cai et al. 2024 (arXiv 2401.10774).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from cllm_bench.contracts import Exactness, Sampling, Step
from cllm_bench.errors import UserError

from .tree import RANKS, Growth, Layout, Tree

if TYPE_CHECKING:
    from torch import Tensor

    from cllm_bench.decoding.sampling import Chooser
    from cllm_bench.engine.family import ModelFamily
    from cllm_bench.engine.session import Output, Program, Session

    from .heads import Heads, StoredHeads

NODES = 63  # the authors'


@dataclass(frozen=True)
class Medusa:
    """Further heads of the model guess a tree of tokens, one pass checks them all.

    Attributes:
        tree: `auto`: the best tree for these heads, by what the recipe `medusa` notes beside them;
            `chain`: every head's first choice; or paths of ranks such as `0.0;0.1;1`: behind head
            0's first choice head 1's first and second, and head 0's second.
        nodes: Guesses in a tree of `auto`; 0 is what the recipe noted, or 63.
        acceptance: `greedy`: a guess stands where it is what the model chooses; `typical`: where
            the model deems it likely enough, which is lossy.
        epsilon: Likely enough (typical) is a probability above this one,
        alpha: or above this times exp(-entropy), whichever is lower.
        heads: The role in the family of the heads.
        checkpoint: The role in the family that decodes.
    """

    tree: str = "auto"
    nodes: int = 0
    acceptance: Literal["greedy", "typical"] = "greedy"
    epsilon: float = 0.09
    alpha: float = 0.3
    heads: str = "medusa"
    checkpoint: str = "target"

    def __post_init__(self) -> None:
        if self.nodes < 0 or min(self.epsilon, self.alpha) <= 0:
            raise UserError("nodes must be 0 or more, epsilon and alpha above 0")
        if self.nodes and self.tree != "auto":
            raise UserError(f"nodes={self.nodes} is for tree=auto, not for tree={self.tree}")
        if self.tree not in ("auto", "chain"):
            Tree.parse(self.tree)

    @property
    def exactness(self) -> Exactness:
        """What greedy replies are."""
        return "exact" if self.acceptance == "greedy" else "lossy"

    @property
    def sampled(self) -> Exactness:
        """What sampled replies are."""
        return self.exactness

    @property
    def extra_roles(self) -> tuple[str, ...]:
        """The heads."""
        return (self.heads,)

    def bind(self, family: ModelFamily) -> MedusaDecoder:
        """Open a session on the checkpoint, and attach the heads to it."""
        from .heads import read_heads

        stored = read_heads(family.checkpoint(self.heads))
        tree = self._tree(stored)
        if tree.depth > stored.count:
            raise UserError(
                f"tree={self.tree} is {tree.depth} guesses deep, and '{self.heads}' "
                f"('{stored.location}') has {stored.count} heads; give a tree of that depth"
            )
        vocabulary = family.vocabulary(self.checkpoint)
        if tree.breadth > vocabulary:
            raise UserError(
                f"tree={self.tree} asks for rank {tree.breadth - 1}, and '{self.checkpoint}' knows "
                f"{vocabulary} tokens; ranks begin at 0"
            )
        heads = stored.attach(family.model(self.checkpoint), tree.depth)
        decoder = MedusaDecoder(self, family.session(self.checkpoint), heads, tree)
        example = heads.layers[0][1][0, 0]
        run = partial(heads.best, example, tree.breadth)
        decoder.count = family.part(f"{self.heads} heads", tree.depth, run)
        return decoder

    def _tree(self, stored: StoredHeads) -> Tree:
        if self.tree == "chain":
            return Tree.chain(stored.count)
        if self.tree != "auto":
            return Tree.parse(self.tree)
        noted = stored.config.get("medusa")
        if noted is None:
            return Growth.from_accuracies(assumed(stored.count), self.nodes or NODES).tree()
        if not self.nodes:
            return Tree.parse(noted["tree"])
        return Tree.parse(";".join([*noted["worths"]][: self.nodes]))


def assumed(heads: int) -> list[list[float]]:
    """Return accuracies for heads of which none are known, by head and rank.

    Each head hits a little more rarely than the one before it, and each rank in the same proportion
    more rarely than the rank before it.
    """
    firsts = [0.65 * 0.85**head for head in range(heads)]
    return [[first * (1 - first) ** rank for rank in range(RANKS)] for first in firsts]


@dataclass
class MedusaDecoder:
    """Medusa over one session.

    Attributes:
        settings: How guesses are accepted.
        session: On the model.
        heads: As many as the tree is deep.
        tree: What they guess.
        count: Called for every pass of the heads.
    """

    settings: Medusa
    session: Session
    heads: Heads
    tree: Tree
    count: Callable[[], None] = lambda: None
    _layouts: dict[int, Layout] = field(default_factory=dict)
    _programs: dict[Layout, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import torch

        self._states = torch.empty(0)  # of the newest pass, (rows, H)

    @property
    def extra_parameters(self) -> int:
        """Those of the heads in use."""
        return self.heads.parameters

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Yield the tokens that each pass settles: the accepted path, and one more."""
        from cllm_bench.decoding.sampling import Chooser

        session = self.session
        choose = Chooser(sampling, prompt_ids.device)
        greedy = choose.greedy and self.settings.acceptance == "greedy"
        output = session.prefill(prompt_ids, hidden=True)
        self._remember(output)
        newest, row = choose.tokens(output, 0)[0], 0
        yield Step((newest,))
        place = 1
        while True:
            layout = self._layout()
            self.count()
            if greedy:
                found = self._program(layout).read((newest, row))
                fed, chosen = found[: len(found) // 2], found[len(found) // 2 :]
                row = matching_row(layout, fed, chosen)
            else:
                row, fed, chosen = self._drawn(layout, choose, (newest, row), place, sampling)
            path = layout.lineage[row]
            session.keep(layout.kept(row))
            yield Step((*(fed[each] for each in path[1:]), chosen[row]), drafted=len(fed) - 1)
            newest = chosen[row]
            place += len(path)

    def _program(self, layout: Layout) -> Program:
        """Return what guesses a tree and checks it: newest token and row in, all tokens out."""
        import torch

        if layout not in self._programs:

            def body(numbers: Tensor) -> Tensor:
                ids, output = self._try(layout, numbers)
                return torch.cat([ids, output.choices])

            rows = len(layout.lineage)
            program = self.session.program(body, rows=rows, results=2 * rows, state=[self._states])
            self._programs[layout] = program
        return self._programs[layout]

    def _try(
        self,
        layout: Layout,
        numbers: Tensor,  # (2,): the newest token, and the row of the last pass that settled it
    ) -> tuple[Tensor, Output]:  # (T,)
        """Guess a tree and run it; return the ids of its rows, and what the pass gave."""
        import torch

        state = self._states.index_select(0, numbers[1:])[0]
        guesses = self.heads.best(state, self.tree.breadth).flatten()[layout.picks]
        ids = torch.cat([numbers[:1], guesses])
        output = self.session.forward(ids, depth=layout.depth, mask=layout.mask, hidden=True)
        self._remember(output)
        return ids, output

    def _remember(self, output: Output) -> None:
        """Keep the states of a pass where the next one finds them."""
        states = output.hidden
        assert states is not None
        if not self._states.numel():
            self._states = states.new_zeros(len(self.tree.nodes) + 1, states.shape[-1])
        self._states[: len(states)].copy_(states)

    def _drawn(
        self,
        layout: Layout,
        choose: Chooser,
        numbers: tuple[int, int],
        place: int,
        sampling: Sampling,
    ) -> tuple[int, list[int], list[int]]:
        """Guess, and accept what noise or the typical rule decides.

        Returns:
            The last accepted row; of every row, what it fed and what is chosen behind it.
        """
        import torch

        with torch.inference_mode():
            ids, output = self._try(layout, self.session.upload(numbers))
            chosen = choose(output, place, layout.depth)
            fed, found = torch.stack([ids, chosen]).tolist()
            if self.settings.acceptance == "greedy":
                return matching_row(layout, fed, found), fed, found
            return self._likely_row(layout, ids[1:], output.logits, sampling), fed, found

    def _layout(self) -> Layout:
        """Return the tree, or what of it fits before the model's last position."""
        rows = min(len(self.tree.nodes) + 1, max(1, self.session.room))
        if rows not in self._layouts:
            tree, breadth = self.tree.within(rows), self.tree.breadth
            self._layouts[rows] = Layout(tree, breadth, self.session.device)
        return self._layouts[rows]

    def _likely_row(
        self,
        layout: Layout,
        guesses: Tensor,  # (T - 1,)
        logits: Tensor,  # (T, V)
        sampling: Sampling,
    ) -> int:
        import torch

        from cllm_bench.decoding.sampling import log_probabilities

        drawn = sampling if sampling.temperature else Sampling(temperature=1.0)
        logs = log_probabilities(logits[layout.inner], drawn).log_softmax(-1)
        entropy = torch.special.entr(logs.exp()).sum(-1)
        judges = layout.judges
        own, behind = torch.stack([logs[judges, guesses], entropy[judges]]).tolist()
        scores = likely_scores(own, behind, self.settings.epsilon, self.settings.alpha)
        return likeliest_row(layout, scores)


def matching_row(layout: Layout, fed: Sequence[int], chosen: Sequence[int]) -> int:
    """Return the last row of the path that the model itself chooses.

    Args:
        layout: Of the tree.
        fed: The token of every row.
        chosen: What the model chooses behind every row.
    """
    row = 0
    while True:
        below = [each for each in layout.children[row] if fed[each] == chosen[row]]
        if not below:
            return row
        (row,) = below  # a head's choices differ from one another


def likely_scores(
    logs: Sequence[float],
    entropies: Sequence[float],
    epsilon: float,
    alpha: float,
) -> list[float]:
    """Return, for every guess, its log-probability where it is typical enough, else -inf.

    It is where p > min(epsilon, alpha * exp(-entropy)), by the distribution behind its parent
    (section 2.3.1 of the paper).

    Args:
        logs: Of every guess its log-probability.
        entropies: Of the distribution behind its parent, in nats.
        epsilon: See `Medusa`.
        alpha: See `Medusa`.
    """
    pairs = zip(logs, entropies, strict=True)
    return [
        log if log > min(math.log(epsilon), math.log(alpha) - entropy) else -math.inf
        for log, entropy in pairs
    ]


def likeliest_row(layout: Layout, scores: Sequence[float]) -> int:
    """Return the last row of the longest path of accepted guesses, the likeliest of the longest.

    Args:
        layout: Of the tree.
        scores: Of every guess, its log-probability, or -inf where it is not accepted.
    """
    totals = [0.0]
    for row, score in enumerate(scores, start=1):
        totals.append(totals[layout.lineage[row][-2]] + score)
    rows = [row for row, total in enumerate(totals) if total > -math.inf]
    return max(rows, key=lambda row: (len(layout.lineage[row]), totals[row]))
