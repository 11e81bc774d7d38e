"""The iterates of Jacobi decoding, and what they tell about fast-forwarded and stationary tokens.

Source: Kou et al. 2024 (arXiv 2403.00835), section 5.2 and Table 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Iterate(NamedTuple):
    """One pass of Jacobi decoding.

    Attributes:
        start: Index in the output of the window's first token, which is settled.
        block: The window that went in: that token, then guesses.
        predicted: Argmax after each row of the window: entry i belongs at index start + 1 + i.
        settled: How many leading entries of `predicted` are final.
    """

    start: int
    block: tuple[int, ...]
    predicted: tuple[int, ...]
    settled: int


def mechanism(iterates: Sequence[Iterate], block_size: int) -> dict[str, float]:
    """Return fast-forwarded tokens per iteration, and stationary tokens per block.

    A window's state is compared with what the output became: *fast-forwarded* are the tokens by
    which the correct prefix grows in one iteration, the one that autoregressive decoding would
    have given included; *stationary* are those that were right behind a wrong one, and stayed.
    Iterations that only verify a converged window are not counted. What lies past the newest
    settled token is unknown and left out, so a reply's last, cut-off block counts in part.
    """
    if not iterates:
        return {}
    final = _final(iterates)
    growths: list[int] = []
    stationary = 0
    for group in _blocks(iterates):
        states = [(group[0].start + 1, group[0].block[1:])]
        states += [(each.start + 1, each.predicted[: len(each.block) - 1]) for each in group]
        growths += _growths(states, final)
        stationary += len(_stationary(states, final))
    blocks = max(1.0, (max(final) + 1) / block_size)
    figures = {"stationary_per_block": stationary / blocks}
    if growths:
        figures["fast_forwarded_per_iteration"] = sum(growths) / len(growths)
    return figures


_State = tuple[int, Sequence[int]]  # index of its first token in the output, tokens


def _final(iterates: Sequence[Iterate]) -> dict[int, int]:
    """Return the settled token at each index of the output."""
    final = {iterates[0].start: iterates[0].block[0]}
    for each in iterates:
        final.update(enumerate(each.predicted[: each.settled], start=each.start + 1))
    return final


def _blocks(iterates: Sequence[Iterate]) -> list[list[Iterate]]:
    """Group the iterates: a block ends where a whole window has settled."""
    groups: list[list[Iterate]] = [[]]
    for each in iterates:
        groups[-1].append(each)
        if each.settled == len(each.block):
            groups.append([])
    return [group for group in groups if group]


def _correct_until(state: _State, final: Mapping[int, int]) -> int:
    """Return the index of the first token of the state that is wrong or not known."""
    start, tokens = state
    for index, token in enumerate(tokens, start=start):
        if final.get(index) != token:
            return index
    return start + len(tokens)


def _growths(states: Sequence[_State], final: Mapping[int, int]) -> list[int]:
    reached = _correct_until(states[0], final)
    growths = []
    for state in states[1:]:
        now = max(reached, _correct_until(state, final))
        if now > reached:
            growths.append(now - reached)
        reached = now
    return growths


def _stationary(states: Sequence[_State], final: Mapping[int, int]) -> set[int]:
    """Return the indices of tokens that were right behind a wrong one and never changed again."""
    early: set[int] = set()
    for state in states:
        wrong = _correct_until(state, final)
        start, tokens = state
        for index, token in enumerate(tokens, start=start):
            if final.get(index) != token:
                early.discard(index)
            elif index > wrong:
                early.add(index)
    return early
