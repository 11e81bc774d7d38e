"""Trees against literal, slow constructions, and the builder against all trees there are."""

import itertools
import random

import pytest
import torch

from cllm_bench.errors import UserError
from cllm_bench_methods.medusa.tree import Growth, Layout, Tree

CPU = torch.device("cpu")
BINARY = [path for depth in (1, 2, 3) for path in itertools.product((0, 1), repeat=depth)]
TREES = {
    "chain": "0.0.0.0",
    "wide": "0;1;2;3;4",
    "deep": "0.0.0.0.0;0.1;1.0.2",
    "binary": ";".join(".".join(map(str, path)) for path in BINARY),
    "drawn": "0.0;0.1;1.0",
}


def layout(tree, breadth=None):
    return Layout(tree, tree.breadth if breadth is None else breadth, CPU)


@pytest.mark.parametrize("text", TREES.values(), ids=TREES)
def test_masks_and_positions_are_those_of_a_literal_construction(text):
    tree = Tree.parse(text)
    rows = [(), *tree.nodes]
    found = layout(tree, breadth=10)
    for row, node in enumerate(rows):
        ancestors = [node[:length] for length in range(len(node) + 1)]
        assert [rows[each] for each in found.lineage[row]] == ancestors
        assert sorted(rows[each] for each in found.children[row]) == sorted(
            other for other in rows if other and other[:-1] == node
        )
        if found.mask is not None:
            seen = [rows[column] for column in range(len(rows)) if found.mask[row, column]]
            assert sorted(seen) == sorted(ancestors)
            assert found.depth[row] == len(node)
        if node:
            assert rows[found.inner[found.judges[row - 1]]] == node[:-1]
            assert found.picks[row - 1] == 10 * (len(node) - 1) + node[-1]
    assert (found.mask is None) == (found.depth is None) == (text == TREES["chain"])


def test_the_drawn_tree():
    found = layout(Tree.parse(TREES["drawn"]))
    drawing = ["x.....", "xx....", "xxx...", "xx.x..", "x...x.", "x...xx"]
    assert found.mask.tolist() == [[cell == "x" for cell in line] for line in drawing]
    assert found.depth.tolist() == [0, 1, 2, 2, 1, 2]


def test_a_path_of_first_rows_is_kept_by_its_length():
    found = layout(Tree.parse(TREES["drawn"]))
    kept = [found.kept(row) for row in range(6)]
    assert kept[:3] == [1, 2, 3]
    assert [each.tolist() for each in kept[3:]] == [[0, 1, 3], [0, 4], [0, 4, 5]]


def test_guesses_are_picked_from_all_heads_choices():
    choices = torch.tensor([[10, 11, 12], [20, 21, 22]])  # of two heads, best first
    tree = Tree.parse("0.1;2.0")
    picked = choices.flatten()[layout(tree, breadth=3).picks]
    assert dict(zip(tree.nodes, picked.tolist(), strict=True)) == {
        (0,): 10,
        (0, 1): 21,
        (2,): 12,
        (2, 0): 20,
    }


def test_texts():
    tree = Tree.parse("1;0.0.2;0.1")
    assert tree.nodes == ((0,), (0, 0), (0, 0, 2), (0, 1), (1,))
    assert tree.text == "0.0.2;0.1;1"
    assert (tree.depth, tree.breadth) == (3, 3)
    for text in TREES.values():
        assert Tree.parse(Tree.parse(text).text) == Tree.parse(text)
    assert Tree.chain(3) == Tree.parse("0.0.0")
    for wrong in ("", "0.", "0;;1", "a", "0,1", "-1", "0..1", "tree.json"):
        with pytest.raises(UserError, match=f"tree={wrong} is not auto, chain or paths of ranks"):
            Tree.parse(wrong)


@pytest.mark.parametrize("text", TREES.values(), ids=TREES)
def test_a_tree_is_pruned_by_whole_levels(text):
    tree = Tree.parse(text)
    for rows in range(1, len(tree.nodes) + 3):
        found = tree.within(rows)
        assert len(found.nodes) + 1 <= rows
        assert found.nodes == tuple(node for node in tree.nodes if len(node) <= found.depth)
        next_level = [node for node in tree.nodes if len(node) <= found.depth + 1]
        assert found == tree or len(next_level) + 1 > rows
    assert layout(Tree.parse(TREES["chain"]).within(1)).picks.tolist() == []


def closed(paths):
    return all(path[:-1] in paths or len(path) == 1 for path in paths)


def expected_tokens(paths, accuracies):
    """Over all ways in which each head may have the right token at one of its ranks or nowhere."""
    total = 0.0
    ways = [[*enumerate(head), (None, 1 - sum(head))] for head in accuracies]
    for way in itertools.product(*ways):
        probability, settled, path = 1.0, 1, ()
        for _, share in way:
            probability *= share
        for rank, _ in way:
            path = (*path, rank)
            if path not in paths:
                break
            settled += 1
        total += probability * settled
    return total


@pytest.mark.parametrize("seed", range(4))
def test_no_tree_of_as_many_nodes_settles_more(seed):
    generator = random.Random(seed)
    accuracies = []
    for _ in range(3):
        shares = [generator.random() for _ in range(3)]
        accuracies.append([share / sum(shares) for share in shares[:2]])  # in no order
    every = [path for depth in (1, 2, 3) for path in itertools.product((0, 1), repeat=depth)]
    growth = Growth.from_accuracies(accuracies, 6)
    for size in range(1, 7):
        tree = growth.tree(size)
        assert len(tree.nodes) == size
        found = expected_tokens(set(tree.nodes), accuracies)
        assert found == pytest.approx(growth.tokens_per_pass[size])
        trees = [set(paths) for paths in itertools.combinations(every, size) if closed(paths)]
        assert found == pytest.approx(max(expected_tokens(paths, accuracies) for paths in trees))


def test_a_node_that_is_never_right_is_left_out():
    growth = Growth.from_accuracies([[0.5, 0.0, 0.1], [0.0, 0.5]], 63)
    assert growth.tree().nodes == ((0,), (0, 1), (2,), (2, 1))
    assert growth.tokens_per_pass == pytest.approx((1, 1.5, 1.75, 1.85, 1.9))
    assert Growth.from_accuracies([[0.0], [1.0]], 63).tree().nodes == (
        (0,),
    )  # one is guessed at least


def test_paths_are_counted_where_heads_err_together():
    """By itself each head is right half of the time; here always both or none."""
    ranks = [[0, 0], [0, 0], [12, 11], [1, 12], [12, 0], [12, 0]]
    growth = Growth.from_ranks(ranks, 63)
    assert growth.paths == ((0,), (0, 0), (1,))
    assert growth.worths == pytest.approx((1 / 3, 1 / 3, 1 / 6))
    assert growth.tree(2) == Tree.chain(2)
    assert Growth.from_ranks(ranks, 1).paths == ((0,),)


@pytest.mark.parametrize("seed", range(3))
def test_no_tree_of_as_many_nodes_would_have_settled_more(seed):
    generator = random.Random(seed)
    ranks = [[generator.choice((0, 0, 1, 99)) for _ in range(3)] for _ in range(60)]
    every = [path for depth in (1, 2, 3) for path in itertools.product((0, 1), repeat=depth)]

    def settled(paths):
        lengths = [
            next((end for end in range(3) if tuple(row[: end + 1]) not in paths), 3)
            for row in ranks
        ]
        return 1 + sum(lengths) / len(ranks)

    growth = Growth.from_ranks(ranks, 6)
    for size in range(1, 7):
        tree = growth.tree(size)
        assert len(tree.nodes) == size
        found = settled(set(tree.nodes))
        assert found == pytest.approx(growth.tokens_per_pass[size])
        trees = [set(paths) for paths in itertools.combinations(every, size) if closed(paths)]
        assert found == pytest.approx(max(settled(paths) for paths in trees))


def test_the_best_size_weighs_tokens_against_the_price_of_rows():
    growth = Growth.from_accuracies([[0.6, 0.2], [0.6, 0.2]], 8)
    assert growth.tokens_per_pass == pytest.approx((1, 1.6, 1.96, 2.16, 2.28, 2.4, 2.44))
    assert growth.best_size({1: 1.0, 64: 1.0}) == 6  # rows cost nothing
    assert growth.best_size({1: 1.0, 2: 2.0, 64: 64.0}) == 0  # a row costs as much as a pass
    # 3 rows for 1.2: 1.96 tokens; a row more costs 0.2, which no further node is worth.
    assert growth.best_size({1: 1.0, 3: 1.2, 13: 3.2}) == 2
    assert growth.best_size({3: 1.2, 4: 1.2}) == 3  # no smaller tree has a known price
