"""The contracts of methods, tasks, recipes and objectives. Nothing here imports torch."""

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
    """How the next token is chosen; `cllm_bench.Chooser` does it.

    Attributes:
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Nucleus sampling: the smallest set of most likely tokens whose probabilities sum to
            at least this value is sampled from.
        seed: Random seed of the reply. Every question has its own, the same for all methods.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one forward pass of the verifying model.

    Attributes:
        tokens: The token ids that this pass settled, in order; at least one.
        drafted: The number of draft tokens that this pass verified.
    """

    tokens: tuple[int, ...]
    drafted: int = 0


class Decoder(Protocol):
    """A method bound to its weights.

    The first step is that of the prefill and settles the first token; every further step is one
    forward pass. The iterator never ends by itself: stop ids, limits, clocks and counts are the
    business of the harness.

    A decoder may have a method `counters() -> Mapping[str, float]`, which returns figures about the
    mechanism in the last generation; it is called after the clock has stopped, and the figures are
    stored with the sample. It may also have an attribute `extra_parameters`, an int: the number of
    parameters that the method needs besides those of its checkpoint.
    """

    def __call__(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
    ) -> Iterator[Step]:
        """Decode from the prompt; yield one step per forward pass."""
        ...


@runtime_checkable
class LibraryDecoder(Protocol):
    """A decoder whose loop belongs to another library; it is timed on the same clock.

    It may have `counters` and `extra_parameters`, as a `Decoder` may.
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
        """Decode until a stop token or the limit; call `settle` with each step as it happens.

        `settle` raises `ReplyEnded` when the reply is complete. Do not catch it: it ends the loop.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """A decoding method: a frozen dataclass of settings.

    Optional attributes: `baseline = True` marks the method that all others are compared with;
    `sampled` is the exactness at temperatures above 0 (a method without it decodes greedily only);
    `extra_roles` names the roles of the family that the method needs besides its checkpoint;
    `own_weights = True` says that it loads the weights of its roles once more, as a library has
    them, rather than those that the family shares.
    """

    @property
    def exactness(self) -> Exactness:
        """How greedy replies compare with those of the baseline.

        `exact`: identical token for token; `distribution`: drawn from the same distribution;
        `lossy`: neither is claimed.
        """
        ...

    @property
    def checkpoint(self) -> str:
        """The role of the checkpoint whose output this method produces."""
        ...

    def bind(self, family: ModelFamily) -> Decoder | LibraryDecoder:
        """Load the weights that the method needs.

        Raises:
            UserError: The family lacks a role, or its weights do not fit the settings.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a task's data.

    Attributes:
        kind: `built-in` is a sample that ships with the package, `folder` a local folder in the
            official layout of the data set, `hub` the public data set on the Hub.
        path: The folder, for the kind `folder`.
        split: The part of the data.
    """

    kind: Literal["built-in", "folder", "hub"] = "built-in"
    path: Path | None = None
    split: Split = "test"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of a task.

    Attributes:
        id: An id that is unique and stable within the data set.
        prompt: The text that the model reads, with the prompt template applied.
        reference: The answer of the data set, as a model should write it; empty for none.
        data: Anything else that the task needs in order to grade.
    """

    id: str
    prompt: str
    reference: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The questions of one source, in a fixed order.

    Attributes:
        samples: The questions that can be asked and graded.
        label: The source as tables show it, such as `built-in` or `Spider dev`.
        template: Name and version of the prompt template.
        fingerprint: SHA-256, in hexadecimal, of everything that determines prompts and grades.
        left_out: The ids of questions that cannot be run on this machine, by reason.
        notes: Facts about the data that a reader of the score must know, one per line.
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
        best_score: The highest score of one sample. 1 means a fraction, which tables show in %; 0
            means that lower is better, as for a perplexity.
        folders: Usual names of the data set's folder, for `--data` with a folder of data sets.

    A class attribute `runs_code = True` marks a task that runs code from models in the sandbox. A
    task with an attribute `draws`, an int, asks every question that many times, each time with
    another seed; the score of a question is then the expected best of `best_of` draws (pass@k).
    """

    best_score: ClassVar[float]
    folders: ClassVar[tuple[str, ...]]

    @property
    def metric(self) -> str:
        """The name of the score, such as `execution accuracy`."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The maximum length of one reply, in tokens."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a reply; they are removed before grading."""
        ...

    def samples(self, source: Source) -> SampleSet:
        """Load the questions.

        Raises:
            UserError: The source is not there, or is not this data set.
        """
        ...

    def score(self, sample: Sample, replies: Sequence[str]) -> float | None:
        """Grade the replies to one sample, one per turn, between 0 and `best_score`.

        Return None where the task does not grade, or not yet.
        """
        ...


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text whose perplexity is measured, with the protocol.

    Windows start at the first token and every `stride` tokens after it. Each shows the model at
    most `window` tokens and scores those that no earlier window has scored. The first token of the
    text, and with `stride = window` the first token of every window, has no context and is not
    scored.

    Attributes:
        content: The text.
        window: The number of tokens that the model sees at once, at least 2.
        stride: The number of tokens from the start of one window to the next, at most `window`.
        remainder: Whether a last window that is not full is dropped or scored.
    """

    content: str
    window: int
    stride: int
    remainder: Literal["drop", "score"] = "drop"


@runtime_checkable
class TextTask(Protocol):
    """The addition of a task whose score is a perplexity.

    A perplexity belongs to the weights: it is measured once per checkpoint and is the score of
    every method on it. The samples are continued to measure speed and exactness; `score` returns
    None.
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
    """The addition of a task whose samples are conversations of several turns.

    `Sample.prompt` is not used. Every turn is a row, with an id such as `81/turn-2`.
    """

    @property
    def chat_template(self) -> str:
        """`checkpoint` for the checkpoint's own template, or the name of a bundled one."""
        ...

    def turns(self, sample: Sample) -> int:
        """Return the number of turns, at least 1."""
        ...

    def messages(self, sample: Sample, replies: Sequence[str]) -> Sequence[Message]:
        """Return the conversation so far; it ends with the user's next turn."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One resumable part of a training pipeline.

    Attributes:
        name: The name that progress shows; also that of the stage's folder.
        run: The work; its argument is the stage's folder. After an interruption it is called again
            and continues from what it finds there; once it has returned it is never called again.
            Where several processes were launched, it is called in all of them.
        key: A hash of everything that determines the stage's output. Trainings with equal keys may
            share it.
    """

    name: str
    run: Callable[[Path], None]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """The work that a recipe is given.

    Attributes:
        family: The family whose role is trained.
        tasks: The tasks to learn, with their training questions.
        output: The family folder that the recipe writes.
        listen: A callback for progress.
        objectives: The training objectives to choose from; by default the installed ones.
        tell: Called with what a user should know, such as settings that cannot learn much.
    """

    family: ModelFamily
    tasks: Mapping[str, tuple[Task, SampleSet]]
    output: Path
    listen: Listen
    objectives: Door = field(default_factory=lambda: Registry().objectives)
    tell: Callable[[str], None] = lambda _: None


@runtime_checkable
class Recipe(Protocol):
    """A training pipeline: a frozen dataclass of settings.

    A recipe whose result depends on further plug-ins also has a method
    `parts(job) -> Sequence[type]`, which returns their classes: a training does not go on with the
    edited code of a plug-in.

    Attributes:
        role: The role of the family that the recipe trains.
    """

    role: ClassVar[str]

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The roles whose weights the recipe starts from or learns from."""
        ...

    def stages(self, job: TrainingJob) -> Sequence[Stage]:
        """Return the stages in order; the last one writes the checkpoint to `job.output / role`.

        Do not write anything in this call.

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
    """The prompt with which a judge grades one reply."""

    system: str
    user: str


@runtime_checkable
class JudgedTask(Protocol):
    """The addition of a task whose replies a judge grades; its own `score` returns None."""

    def judge_prompt(self, sample: Sample, replies: Sequence[str]) -> JudgePrompt:
        """Return the prompt about the last of the replies so far."""
        ...
