"""Trees of guesses: what they hold, how a pass checks one, and how a good one is built.

A node is a path of ranks: (0, 1) stands for the first choice of head 0 and, behind it, the second
choice of head 1. Rows are the newest settled token and the nodes in order of their paths, which is
depth first. A row sees what is settled, its ancestors and itself. Drawn for 0, 0.0, 0.1, 1, 1.0:

                row  depth     0 1 2 3 4 5
        newest   0     0       x . . . . .
         0       1     1       x x . . . .
          0.0    2     2       x x x . . .
          0.1    3     2       x x . x . .
         1       4     1       x . . . x .
          1.0    5     2       x . . . x x

Where every first choice is right the accepted rows are the first ones, and nothing has to be moved
in the key-value cache.

Source: Cai et al. 2024 (arXiv 2401.10774), sections 2.1.2 and 2.3.3.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cllm_bench.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Path = tuple[int, ...]
Accuracies = Sequence[Sequence[float]]  # of head k: how often its choice of rank r is right

RANKS = 10  # choices of a head that are looked at

_FORM = re.compile(r"\d+(\.\d+)*(;\d+(\.\d+)*)*")


@dataclass(frozen=True)
class Tree:
    """Guesses behind the newest settled token.

    Attributes:
        nodes: Their paths in order, every node's ancestors included.
    """

    nodes: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Tree:
        """Return the tree of these paths and their ancestors."""
        wanted = {path[: end + 1] for path in paths for end in range(len(path))}
        return cls(tuple(sorted(wanted)))

    @classmethod
    def parse(cls, text: str) -> Tree:
        """Return the tree of a text such as `0.0;0.1;1`; ancestors need not be named.

        Raises:
            UserError: It is no such text.
        """
        if not _FORM.fullmatch(text):
            raise UserError(
                f"tree={text} is not auto, chain or paths of ranks such as '0.0;0.1;1' (first "
                "choices 0 and 1; behind 0 the next head's first and second)"
            )
        return cls.of([tuple(map(int, path.split("."))) for path in text.split(";")])

    @classmethod
    def chain(cls, depth: int) -> Tree:
        """Return the first choices alone."""
        return cls.of([(0,) * depth])

    @property
    def text(self) -> str:
        """What `parse` makes this tree of: its leaves."""
        inner = {node[:-1] for node in self.nodes}
        leaves = [node for node in self.nodes if node not in inner]
        return ";".join(map(path_text, leaves))

    @property
    def depth(self) -> int:
        """Nodes on the longest path: so many heads are needed."""
        return max(map(len, self.nodes), default=0)

    @property
    def breadth(self) -> int:
        """Choices of a head that are needed."""
        return max((rank + 1 for node in self.nodes for rank in node), default=0)

    def within(self, rows: int) -> Tree:
        """Leave out the deepest nodes, level by level, until a pass has at most so many rows."""
        nodes = self.nodes
        while len(nodes) + 1 > rows and nodes:
            deepest = max(map(len, nodes))
            nodes = tuple(node for node in nodes if len(node) < deepest)
        return Tree(nodes)


def path_text(path: Path) -> str:
    """Return a path as texts of trees have it."""
    return ".".join(map(str, path))


class Layout:
    """A tree as a pass needs it, on the device.

    Attributes:
        picks: For every node its place among all heads' choices, flattened.
        depth: Of every row; none for a chain, which is what a session expects anyway.
        mask: Which row sees which; none for a chain.
        inner: Rows that have nodes below them.
        judges: Of every node, its parent's place among these.
        children: Of every row, the rows below it.
        lineage: Of every row, the rows from the newest token down to it.
    """

    def __init__(self, tree: Tree, breadth: int, device: torch.device) -> None:
        """Lay out a tree.

        Args:
            tree: What to lay out.
            breadth: Choices that each head is asked for.
            device: Of the model.
        """
        import torch

        row_of = {(): 0} | {node: row for row, node in enumerate(tree.nodes, start=1)}
        parents = [row_of[node[:-1]] for node in tree.nodes]
        self.children: list[list[int]] = [[] for _ in row_of]
        self.lineage: list[tuple[int, ...]] = [(0,)]
        for row, parent in enumerate(parents, start=1):
            self.children[parent].append(row)
            self.lineage.append((*self.lineage[parent], row))
        picks = [(len(node) - 1) * breadth + node[-1] for node in tree.nodes]
        self.picks = torch.tensor(picks, dtype=torch.long, device=device)  # (N,)
        inner = [row for row, below in enumerate(self.children) if below]
        judges = [inner.index(parent) for parent in parents]
        self.inner = torch.tensor(inner, dtype=torch.long, device=device)  # (J,)
        self.judges = torch.tensor(judges, dtype=torch.long, device=device)  # (N,)
        self.depth: Tensor | None = None  # (N + 1,)
        self.mask: Tensor | None = None  # (N + 1, N + 1)
        if any(len(rows) > 1 for rows in self.children):
            self.depth = torch.tensor([len(rows) - 1 for rows in self.lineage], device=device)
            mask = torch.zeros(len(row_of), len(row_of), dtype=torch.bool)
            for row, seen in enumerate(self.lineage):
                mask[row, list(seen)] = True
            self.mask = mask.to(device)
        # Moving a number is cheaper than gathering rows, where the path's rows are the first ones.
        self._kept: list[int | Tensor] = [
            len(rows) if rows == tuple(range(len(rows))) else torch.tensor(rows, device=device)
            for rows in self.lineage
        ]

    def kept(self, row: int) -> int | Tensor:
        """Return what a session must keep for the path to a row."""
        return self._kept[row]


@dataclass(frozen=True)
class Growth:
    """Good trees of every size: nodes in the order in which they are worth adding.

    A node is worth the probability that its whole path is right: by so much it lengthens what a
    pass settles. A node is never worth more than its ancestors, so the first nodes are always a
    tree, and no tree of as many nodes settles more.

    Attributes:
        paths: The nodes.
        worths: Of each.
    """

    paths: tuple[Path, ...]
    worths: tuple[float, ...]

    @classmethod
    def from_accuracies(cls, accuracies: Accuracies, nodes: int) -> Growth:
        """Grow up to so many nodes as if the heads' hits were independent of one another.

        Then a path's probability is the product of its accuracies. Nodes worth nothing are left
        out.
        """
        grown: list[tuple[Path, float]] = []
        open_: list[tuple[float, Path]] = [(-1.0, ())]
        while open_ and len(grown) <= nodes:
            worth, path = heapq.heappop(open_)
            grown.append((path, -worth))
            behind = accuracies[len(path)] if len(path) < len(accuracies) else ()
            for rank, accuracy in enumerate(behind):
                if accuracy > 0:
                    heapq.heappush(open_, (worth * accuracy, (*path, rank)))
        paths, worths = zip(*grown[1:], strict=True) if grown[1:] else ((), ())
        return cls(paths, worths)

    @classmethod
    def from_ranks(cls, ranks: Sequence[Sequence[int]], nodes: int) -> Growth:
        """Grow up to so many nodes by how often each path was right: heads err together.

        Args:
            ranks: For every position, where each head had the right token among its choices.
            nodes: At most.
        """
        counts: Counter[Path] = Counter()
        for row in ranks:
            path = tuple(itertools.takewhile(lambda rank: rank < RANKS, row))
            counts.update(path[:end] for end in range(1, len(path) + 1))
        paths = sorted(counts, key=lambda path: (-counts[path], len(path), path))[:nodes]
        return cls(tuple(paths), tuple(counts[path] / len(ranks) for path in paths))

    def tree(self, nodes: int | None = None) -> Tree:
        """Return the best tree of so many nodes, or of all; it has one at least."""
        return Tree.of(self.paths[:nodes] or [(0,)])

    @cached_property
    def tokens_per_pass(self) -> tuple[float, ...]:
        """Expected tokens settled by a pass, for trees of 0, 1, 2 … nodes."""
        return tuple(itertools.accumulate(self.worths, initial=1.0))

    def best_size(self, seconds: Mapping[int, float]) -> int:
        """Return the number of nodes with the most tokens a second.

        Args:
            seconds: What a pass takes, by its number of rows; between the numbers given it is
                taken to rise evenly, and larger trees than they reach are not considered.
        """
        known = sorted(seconds)
        sizes = range(max(0, known[0] - 1), min(len(self.paths), known[-1] - 1) + 1)
        return max(sizes, key=lambda size: self.tokens_per_pass[size] / _between(seconds, size + 1))


def _between(seconds: Mapping[int, float], rows: int) -> float:
    lower = max(each for each in seconds if each <= rows)
    upper = min(each for each in seconds if each >= rows)
    share = (rows - lower) / max(1, upper - lower)
    return seconds[lower] + share * (seconds[upper] - seconds[lower])
