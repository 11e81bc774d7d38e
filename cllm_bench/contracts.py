"""What a method, a task, a recipe and an objective are to the harness, without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    TypedDict,
    runtime_checkable,
)

from cllm_bench.core.registry import Door, Registry

if TYPE_CHECKING:
    import random

    from torch import Tensor

    from cllm_bench.engine.family import ModelFamily

Exactness = Literal["exact", "distribution", "lossy"]
Split = Literal["train", "test"]
Divergence = Literal["forward_kl", "reverse_kl", "jsd"]  # of a student from its teacher
Listen = Callable[[str, int, int], None]  # what runs, how much is done, of how much


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; `cllm_bench.decoding.sampling` does it.

    Attributes:
        temperature: 0 is greedy.
        top_p: Of the nucleus: the fewest most likely tokens whose probabilities reach it.
        seed: Of the reply. Every question has its own, the same for all methods.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one forward pass of the verifying model.

    Attributes:
        tokens: Ids settled by this pass, in order; at least one.
        drafted: Guesses that this pass checked.
    """

    tokens: tuple[int, ...]
    drafted: int = 0


class Decoder(Protocol):
    """A method bound to its weights.

    The first step is the prefill's and settles the first token; after it, one step a pass, without
    end. A decoder knows no stop ids, limits, clocks or counts: `generate` does.

    A decoder may also have a method `counters() -> Mapping[str, float]`: mechanism figures of its
    last generation, read after the clock has stopped and stored with the sample; and an attribute
    `extra_parameters`, an int: those that it needs beside its checkpoint's.
    """

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Decode from the prompt."""
        ...


@runtime_checkable
class LibraryDecoder(Protocol):
    """A decoder whose loop belongs to another library, and is timed on the same clock as ours.

    It may have `counters` and `extra_parameters` as a `Decoder` has.
    """

    def answer(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
        *,
        max_new_tokens: int,
        stop_ids: Collection[int],
        settle: Callable[[Step], None],
    ) -> None:
        """Decode to a stop token or the limit; call `settle` with each step as it happens.

        `settle` raises `ReplyEnded` when the reply is complete: let it pass, which ends the loop.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A decoding method: a frozen dataclass of settings.

    Optional attributes: `baseline = True` marks the method that all others are compared with;
    `sampled` is its exactness at temperatures above 0, and a method without it decodes greedily
    only; `extra_roles` names roles in the family that it needs beside its checkpoint.
    """

    @property
    def exactness(self) -> Exactness:
        """What greedy replies are.

        `exact`: the baseline's, token for token; `distribution`: drawn from the same distribution;
        `lossy`: neither is claimed.
        """
        ...

    @property
    def checkpoint(self) -> str:
        """The role, in the model family, of the checkpoint whose output this method settles."""
        ...

    def bind(self, family: ModelFamily) -> Decoder | LibraryDecoder:
        """Fetch the weights that the method needs.

        Raises:
            UserError: The family lacks a role, or its weights do not fit the settings.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's data come from.

    Attributes:
        kind: The project's own generated sample, a local folder in the data set's official layout,
            or the public data set on the Hub.
        path: The folder, for kind `folder`.
        split: Which part of the data.
    """

    kind: Literal["built-in", "folder", "hub"] = "built-in"
    path: Path | None = None
    split: Split = "test"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a task.

    Attributes:
        id: Unique and stable within the data set.
        prompt: The text that the model reads, its template applied.
        reference: The answer that the data set gives, as a model should write it; empty: none.
        data: Whatever else the task needs in order to grade.
    """

    id: str
    prompt: str
    reference: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The questions of one source, in a fixed order.

    Attributes:
        samples: Those that can be asked and graded.
        label: The source as tables show it, such as `built-in` or `Spider dev`.
        template: Name and version of the prompt template.
        fingerprint: SHA-256, in hexadecimal, of everything that decides prompts and grades.
        left_out: For each reason, the ids of questions that cannot be run here.
        notes: Facts about the data that a reader of the score must know, a line each.
    """

    samples: tuple[Sample, ...]
    label: str
    template: str
    fingerprint: str
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Task(Protocol):
    """Something to ask and a way to grade: a frozen dataclass of settings.

    Attributes:
        best_score: The highest score of one sample; 1 means a fraction, which tables show in %, and
            0 that lower is better, as in a perplexity.
        folders: Usual names of the data set's own folder, for `--data` with a folder of folders.

    A class attribute `runs_code = True` marks a task that runs what models write, in the sandbox.
    One with `draws`, an int, asks every question so many times, each time with another seed; the
    score of a question is then the expected best of `best_of` draws, an int too: pass@k.
    """

    best_score: ClassVar[float]
    folders: ClassVar[tuple[str, ...]]

    @property
    def metric(self) -> str:
        """What the score is, such as `execution accuracy`."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The limit of one reply, in tokens."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a reply; it is graded without them."""
        ...

    def samples(self, source: Source) -> SampleSet:
        """Load the questions.

        Raises:
            UserError: The source is not there, or is not this data set.
        """
        ...

    def score(self, sample: Sample, replies: Sequence[str]) -> float | None:
        """Grade the replies to one sample, one for each turn, between 0 and `best_score`.

        None where the task does not grade, or not yet.
        """
        ...


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text whose perplexity is measured, and how.

    Windows begin at its first token and every `stride` tokens from there; each gives the model at
    most `window` tokens and scores those that no window before it scored. The first token of all,
    and with `stride = window` the first token of every window, has nothing before it and is not
    scored.

    Attributes:
        content: The text.
        window: Tokens that the model sees at once, at least 2.
        stride: From the beginning of one window to that of the next, at most `window`.
        remainder: Whether the last window is left out or scored where the text ends before it does.
    """

    content: str
    window: int
    stride: int
    remainder: Literal["drop", "score"] = "drop"


@runtime_checkable
class TextTask(Protocol):
    """What a task adds whose score is a perplexity.

    It belongs to the weights: it is measured once for each checkpoint, and is the score of every
    method on it. The samples are continued for speed and exactness; `score` grades nothing.
    """

    def text(self, source: Source) -> ScoredText:
        """Load the text.

        Raises:
            UserError: The source is not there, or is not this data set.
        """
        ...


class Message(TypedDict):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@runtime_checkable
class ChatTask(Protocol):
    """What a task adds that talks: a sample has turns, each continues the conversation so far.

    `Sample.prompt` is not used; every turn is a row, with an id such as `81/turn-2`.
    """

    @property
    def chat_template(self) -> str:
        """`checkpoint` for the checkpoint's own, or a name of `decoding.chat_templates`."""
        ...

    def turns(self, sample: Sample) -> int:
        """Return the number of turns: at least 1."""
        ...

    def messages(self, sample: Sample, replies: Sequence[str]) -> Sequence[Message]:
        """Return the conversation: the replies so far, and at its end the user's next turn."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One resumable part of a training pipeline.

    Attributes:
        name: Shown in progress and used as the name of the stage's own folder.
        run: Does the work; its argument is that folder. Called again after an interruption, it
            goes on from what it finds there; never called again once it has returned. Where
            several processes were launched, it is called in all of them: see `processes`.
        key: Hash of everything that decides what the stage leaves; two trainings with equal keys
            leave the same, so one may take the other's.
    """

    name: str
    run: Callable[[Path], None]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What a recipe is asked to do.

    Attributes:
        family: The family whose role is built.
        tasks: The tasks to learn, with their training questions.
        output: The family directory that the recipe leaves.
        listen: Told how it goes.
        objectives: The training objectives to choose from; by default the installed ones.
    """

    family: ModelFamily
    tasks: Mapping[str, tuple[Task, SampleSet]]
    output: Path
    listen: Listen
    objectives: Door = field(default_factory=lambda: Registry().objectives)


@runtime_checkable
class Recipe(Protocol):
    """A training pipeline: a frozen dataclass of settings.

    A recipe whose result depends on further plug-ins also has a method
    `parts(job) -> Sequence[type]`, which returns their classes: a training does not go on with the
    edited code of a plug-in.

    Attributes:
        role: The role in the family that the recipe builds.
    """

    role: ClassVar[str]

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Roles whose weights the recipe starts from or learns from."""
        ...

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return the stages in order; the last leaves the checkpoint at `job.output / role`.

        Nothing is written yet when this is called.

        Raises:
            UserError: The job does not fit the recipe.
        """
        ...


class AnswerBlock(Protocol):
    """One block of an answer, for which an objective chooses noisy states."""

    @property
    def index(self) -> int:
        """Place of the block in its answer, from 0."""
        ...

    @property
    def turn(self) -> int:
        """Place of the block in its window, from 0 to `window` - 1.

        Windows follow one another; where the first one begins is drawn for each chain.
        """
        ...

    @property
    def prefix(self) -> tuple[int, ...]:
        """Prompt and settled answer before the block."""
        ...

    @property
    def fixed_point(self) -> tuple[int, ...]:
        """What the block converges to."""
        ...

    @property
    def trajectory(self) -> tuple[tuple[int, ...], ...]:
        """The recorded states, the fixed point last; empty where states are made online."""
        ...

    @property
    def iterations(self) -> int:
        """The states that a chain has."""
        ...

    @property
    def random(self) -> random.Random:
        """Where random choices come from: a batch is the same when it is asked for again."""
        ...

    def chain(self, unconverged: float | None = None) -> Sequence[Sequence[int]]:
        """Draw a chain of states as the recipe's settings say.

        A recorded chain begins at a random state that has not converged and goes on along the
        trajectory; an online one begins with fresh guesses.

        Args:
            unconverged: Share of the tokens behind the block's first one that the chain's first
                state has not settled, from 0 to 1. A recorded chain begins at the state that comes
                nearest to it; an online one settles the others and guesses the rest.
        """
        ...


class BlockStates(NamedTuple):
    """The noisy states of one block in one chain.

    Attributes:
        chain: One state for each iteration, each as long as the block and, as in decoding, with the
            settled token as its first. Online, the model replaces those after the first state: each
            becomes what one Jacobi iteration makes of the one before.
        joined: Whether the block reads the noisy block before it, and what that one reads, in place
            of the fixed points of all blocks before it. The first block has none to join.
    """

    chain: Sequence[Sequence[int]]
    joined: bool = False


class StatePair(Protocol):
    """The rows of a noisy copy beside those of its teacher.

    It holds the N rows that have something to learn: a wrong token stands before or at each of
    them in its noisy context, and the answer has a next token.
    """

    @property
    def student(self) -> Tensor:  # (N, V)
        """Logits of the copy."""
        ...

    @property
    def teacher(self) -> Tensor:  # (N, V)
        """Logits of the teacher at the same places of the answer, without gradient."""
        ...

    @property
    def tokens(self) -> Tensor:  # (N,)
        """The answer's own next tokens."""
        ...

    @property
    def depth(self) -> Tensor:  # (N,)
        """Distance of each row from the beginning of its noisy context."""
        ...

    @property
    def weights(self) -> Tensor:  # (N,)
        """Rows of the answer that each row stands for: above 1 with `form=single`."""
        ...

    def divergence(self, kind: Divergence) -> Tensor:  # (N,)
        """Return how far the student is from the teacher, row by row, in nats."""
        ...


class StateBatch(Protocol):
    """The logits of a batch of B answers of up to A tokens, and of their noisy copies.

    Row a, of the answer as of a copy, is what the model says behind answer token a.
    """

    @property
    def copies(self) -> int:
        """Noisy copies of each answer: a state of every block.

        They stand in order of iteration, then of chain.
        """
        ...

    @property
    def chains(self) -> int:
        """Copies of one iteration, so that the next state of copy c is copy c + `chains`."""
        ...

    def pair(self, student: int, teacher: int | None = None) -> StatePair:
        """Return the rows of a copy beside those of another one; None is the answer itself."""
        ...

    def logits(self, copy: int | None = None) -> Tensor:  # (B, A, V)
        """Return all rows of a copy, or of the answer; some are padding: see `exists`."""
        ...

    def exists(self, copy: int | None = None) -> Tensor:  # (B, A) bool
        """Return which rows of a copy, or of the answer, there are."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What a CLLM learns from, and its loss: a frozen dataclass of settings.

    A setting that has the name of one of the recipe's, such as `divergence` or `iterations`, takes
    the recipe's value. An objective that needs certain settings checks them in `__post_init__`. All
    others are set with the objective's name: `cllm:objective=mine:key=value;key=value`.
    """

    def states(self, block: AnswerBlock) -> BlockStates:
        """Choose the noisy states of one block; called for each chain, block after block."""
        ...

    def losses(self, batch: StateBatch) -> Mapping[str, Tensor]:  # each ()
        """Return the terms of the loss, each a sum over the rows of all answers.

        Names end in `_loss`, and every batch has the same. Each term is logged, divided by the
        number of answer tokens; their sum and `ar_weight` times the AR loss is minimised. Where
        several copies learn, take the mean over them.
        """
        ...


class JudgePrompt(NamedTuple):
    """What a judge is asked about one reply."""

    system: str
    user: str


@runtime_checkable
class JudgedTask(Protocol):
    """What a task adds whose replies a judge grades; its own `score` returns None."""

    def judge_prompt(self, sample: Sample, replies: Sequence[str]) -> JudgePrompt:
        """Return what a judge is asked about the last of the replies given so far."""
        ...
