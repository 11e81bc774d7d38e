"""The noisy states of an answer's blocks: how a batch draws them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cllm_bench.contracts import BlockStates, Objective
from cllm_bench.errors import UserError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Terms:
    """What keeps a model what it was, while an objective teaches it to skip.

    Attributes:
        ar_weight: Weight of the AR loss, w.
        prompt_weight: Share of the AR loss that a prompt's token has, against 1 for an answer's.
        label_smoothing: Of the AR loss: the share of the probability that is spread evenly.
        anchor_weight: Weight of the divergence from the frozen target, on prompts and answers.
        counted: Whether the objective's losses are divided by the rows that have something to
            learn, as the original's are, or by all answer tokens, as the AR loss is.
    """

    ar_weight: float
    prompt_weight: float = 0.0
    label_smoothing: float = 0.0
    anchor_weight: float = 0.0
    counted: bool = False

    @property
    def prompts(self) -> bool:
        """Whether any of them reads what the model says in prompts."""
        return self.prompt_weight > 0 or self.anchor_weight > 0


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
        refill: How inference goes on from a state: `block` with what it made of the whole block;
            `sliding` with fresh guesses behind a place that differs from state to state.
        ahead: Jacobi iterations, at most, that are behind the first state of a chain (online only);
            how many differs from batch to batch.
        objective: Chooses the states of a block, and gives the loss.
        form: `packed` trains all blocks of an answer in one pass; `single` one block of each, by
            plain causal passes.
        shift: Let blocks begin at a random place in the answer (online states only).
        window: Blocks in a window, in which an objective may give each block a turn of its own.
        terms: What the loss has beside the objective's.
        cached: Whether the model keeps keys and values while it trains (packed online states).
    """

    block_size: int
    source: Literal["recorded", "online"]
    copies: int
    iterations: int
    guess: Literal["prompt", "vocab", "pad", "last"]
    pad_id: int
    vocabulary: int
    refill: Literal["block", "sliding"]
    ahead: int
    objective: Objective
    form: Literal["packed", "single"]
    shift: bool
    window: int
    terms: Terms
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


class NoisyCopy(NamedTuple):
    """One noisy copy, by answer index.

    Attributes:
        tokens: Its state.
        begins: Where the noisy context begins.
        held: Which are used.
        fresh: Which stay guesses when the state before it is moved on to this one.
    """

    tokens: list[int]
    begins: list[int]
    held: list[bool]
    fresh: list[bool]


@dataclass(frozen=True)
class Block:
    """The contract's `AnswerBlock`: tokens `start` to `end` of an answer, in one chain."""

    answer: Answer
    settings: States
    random: random.Random
    index: int
    turn: int
    start: int
    end: int

    @property
    def prefix(self) -> Tokens:
        """Prompt and settled answer before the block."""
        return self.answer.prompt + self.answer.tokens[: self.start]

    @property
    def fixed_point(self) -> Tokens:
        """What the block converges to."""
        return self.answer.tokens[self.start : self.end]

    @property
    def trajectory(self) -> tuple[Tokens, ...]:
        """The recorded states, the fixed point last; empty where states are made online."""
        return self.answer.states[self.index] if self.settings.source == "recorded" else ()

    @property
    def iterations(self) -> int:
        """The states that a chain has."""
        return self.settings.iterations

    def chain(self, unconverged: float | None = None) -> Sequence[Sequence[int]]:
        """Draw a chain of states; online all are alike, and the loss moves them on."""
        if self.settings.source == "online":
            return [self._guessed(unconverged)] * self.iterations
        return self._recorded(unconverged)

    def _guessed(self, unconverged: float | None) -> Sequence[int]:
        """Return a state of which all but a share has converged: settled tokens come first."""
        guess, fixed = self._guesses(), self.fixed_point
        if unconverged is None:
            return guess
        right = len(fixed) - round(unconverged * (len(fixed) - 1))
        return (*fixed[:right], *guess[right:])

    def _guesses(self) -> list[int]:
        """Return a block as inference begins it: its settled first token, then fresh guesses.

        Guesses from the prompt are drawn from it and the output up to that first token.
        """
        head, count, settings = self.fixed_point[0], self.end - self.start - 1, self.settings
        if settings.guess == "prompt":
            return [head, *self.random.choices((*self.prefix, head), k=count)]
        if settings.guess == "vocab":
            return [head, *(self.random.randrange(settings.vocabulary) for _ in range(count))]
        return [head, *[settings.pad_id if settings.guess == "pad" else head] * count]

    def _recorded(self, unconverged: float | None) -> list[Tokens]:
        """Pick a state that has not converged, at random or by its share; and the next ones."""
        trajectory, fixed = self.trajectory, self.fixed_point
        # Drawn in either case, so that a seed gives the same batches as it always did.
        step = self.random.randrange(max(1, len(trajectory) - 1))
        if unconverged is not None:
            wanted = unconverged * (len(fixed) - 1)
            distances = [abs(_unsettled(state, fixed) - wanted) for state in trajectory]
            step = distances.index(min(distances))
        last = len(trajectory) - 1
        return [trajectory[min(step + more, last)] for more in range(self.iterations)]


def _unsettled(state: Tokens, fixed: Tokens) -> int:
    """Count the tokens from the first wrong one on."""
    pairs = enumerate(zip(state, fixed, strict=True))
    return next((len(fixed) - index for index, (a, b) in pairs if a != b), 0)


def mean_blocks(answers: Sequence[Answer], states: States) -> float:
    """Return the blocks of an average answer."""
    return sum(-(-len(each.tokens) // states.block_size) for each in answers) / len(answers)


def noisy_copies(answer: Answer, states: States, generator: random.Random) -> list[NoisyCopy]:
    """Return the copies of an answer, in order of iteration, then of chain.

    Chains differ in where blocks begin (online), in their places along the trajectories (recorded)
    and in which block has which turn of a window.

    Raises:
        UserError: The objective gives a block other states than it has tokens and iterations for.
    """
    chosen = generator.random()  # where in the answer lies the block of a copy that holds one only
    chains = [_chain(answer, states, chosen, generator) for _ in range(states.chains)]
    return [chain[step] for step in range(states.iterations) for chain in chains]


def _chain(
    answer: Answer, states: States, chosen: float, generator: random.Random
) -> list[NoisyCopy]:
    """Return the copies of one chain, in order."""
    size, length = states.block_size, len(answer.tokens)
    first = generator.randrange(size) if states.shift and states.source == "online" else 0
    starts = [0, *range(first or size, length, size)]
    # By its length, as the loss takes a block for so many tokens: a short last one is drawn seldom.
    held = int(chosen * length)
    phase = generator.randrange(states.window)
    found = [NoisyCopy([], [], [], []) for _ in range(states.iterations)]
    slides = states.refill == "sliding" and states.source == "online"
    context = 0
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], length], strict=True)):
        turn = (index + phase) % states.window
        block = Block(answer, states, generator, index, turn, start, end)
        noise = _checked(states.objective.states(block), block)
        if not noise.joined:
            context = start
        used = states.form == "packed" or start <= held < end
        for copy, state in zip(found, noise.chain, strict=True):
            copy.tokens.extend(state)
            copy.begins.extend([context] * (end - start))
            copy.held.extend([used] * (end - start))
            # The guess behind the last predicted token is the first of the fresh ones.
            cut = generator.randint(1, end - start) if slides else end - start
            copy.fresh.extend(place >= cut for place in range(end - start))
    return found


def _checked(noise: BlockStates, block: Block) -> BlockStates:
    """Refuse states that do not fill the block's columns.

    Raises:
        UserError: They do not.
    """
    wanted = [block.end - block.start] * block.iterations
    found = [len(state) for state in noise.chain]
    if found != wanted:
        raise UserError(
            f"objective {type(block.settings.objective).__name__}: states() gave a block of "
            f"{wanted[0]} tokens and {block.iterations} iterations states of {found} tokens"
        )
    if noise.joined and block.settings.form == "single":
        raise UserError(
            f"objective {type(block.settings.objective).__name__}: states() joins blocks, which "
            "form=single trains apart; give form=packed"
        )
    return noise
