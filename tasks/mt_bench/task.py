"""MT-bench: conversations of two turns that another model grades (Zheng et al., NeurIPS 2023)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from cllm_bench.contracts import JudgePrompt, Message, Sample, SampleSet, Source, Split
from cllm_bench.decoding.chat_templates import CHECKPOINT, TEMPLATES
from cllm_bench.errors import UserError, did_you_mean

from .dataset import REMEDY, WHOLE, QuestionText, read_mt_bench
from .judge_prompts import OWN, judge_prompt

AUTO, PLAIN = "auto", "plain"
_MOST = 1_000_000  # of any setting
OWN_PROMPTS = (
    "the built-in conversations are generated, and so are those of the training, about other "
    "things; a judge gets the project's own prompts, not MT-bench's"
)
TEMPERATURE = (
    "MT-bench's own runs draw the replies of some categories at temperature 0.7 or 0.1; here the "
    "run's temperature holds for all"
)


@dataclass(frozen=True, slots=True)
class MtBench:
    """Conversations of two turns; a judge grades the replies, see `cllm-bench judge`.

    Attributes:
        template: `checkpoint` for the checkpoint's own chat template, `vicuna-v1.1`, `plain`, or
            `auto`: `plain` for the built-in sample, the checkpoint's own for MT-bench itself.
        max_new_tokens: The limit of one reply.
        train_conversations: Size of the built-in training split.
    """

    metric: ClassVar[str] = "judge's rating, 1 to 10"
    best_score: ClassVar[float] = 10.0
    folders: ClassVar[tuple[str, ...]] = ("llm_judge", "mt_bench")

    template: str = AUTO
    max_new_tokens: int = 1024
    train_conversations: int = 24_000
    # What `auto` means: decided by the source from which `samples` read last.
    _auto: str = field(default=CHECKPOINT, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = (AUTO, CHECKPOINT, *TEMPLATES)
        if self.template not in known:
            tail = did_you_mean(self.template, known)
            raise UserError(f"mt_bench has no template named '{self.template}'; {tail}")
        for setting in ("max_new_tokens", "train_conversations"):
            value = getattr(self, setting)
            if not 0 < value <= _MOST:
                raise UserError(
                    f"mt_bench: {setting} is {value}; give more than 0, at most {_MOST:,}"
                )

    @property
    def chat_template(self) -> str:
        """Name of the chat template."""
        return self._auto if self.template == AUTO else self.template

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a reply in a template without an end token: the user's next turn."""
        return ("\nQuestion:",) if self.chat_template == PLAIN else ()

    def samples(self, source: Source) -> SampleSet:
        """Load the conversations, or for the training split their turns, each with its past.

        Raises:
            UserError: The source is not there, or is not MT-bench.
        """
        object.__setattr__(self, "_auto", PLAIN if source.kind == "built-in" else CHECKPOINT)
        questions = self._questions(source)
        if source.split == "train":
            samples = tuple(sample for each in questions for sample in self._taught(each))
        else:
            samples = tuple(map(_sample, questions))
        return SampleSet(
            samples=samples,
            label="built-in" if source.kind == "built-in" else "MT-bench",
            template=f"chat {self.chat_template}",
            fingerprint=self._fingerprint(samples, questions),
            notes=_notes(source, len(questions)),
        )

    def turns(self, sample: Sample) -> int:
        """Return the number of turns."""
        return len(sample.data["turns"])

    def messages(self, sample: Sample, replies: Sequence[str]) -> list[Message]:
        """Return the conversation so far, and the user's next turn."""
        return _messages(sample.data["turns"], replies)

    def score(self, sample: Sample, replies: Sequence[str]) -> None:
        """Leave the grading to a judge."""

    def judge_prompt(self, sample: Sample, replies: Sequence[str]) -> JudgePrompt:
        """Return what a judge is asked about the last of the replies."""
        data = sample.data
        return judge_prompt(data["templates"], data["turns"], replies, data["references"])

    def _questions(self, source: Source) -> Sequence[QuestionText]:
        if source.kind == "built-in":
            return _built_in(source.split, self.train_conversations)
        if source.kind == "hub":
            raise UserError(
                "the copies of MT-bench on the Hub lack the judge prompts, and no reply is graded "
                f"without them; {REMEDY}"
            )
        if source.split == "train":
            raise UserError(
                "MT-bench has no training questions; --data mt_bench=built-in trains on the "
                "built-in sample"
            )
        return read_mt_bench(source.path)

    def _taught(self, question: QuestionText) -> Iterator[Sample]:
        """Yield a sample for each turn: what stands before the reply, and the reply.

        Raises:
            UserError: Only one template can be written without a checkpoint.
        """
        if self.chat_template != PLAIN:
            raise UserError(
                f"mt_bench: the training turns are written in template {PLAIN}, not "
                f"{self.chat_template}; leave out the setting `template`"
            )
        for turn, reply in enumerate(question.references):
            messages = _messages(question.turns, question.references[:turn])
            yield Sample(
                id=f"{question.id}/turn-{turn + 1}",
                prompt=plain_text(messages),
                reference=f" {reply}",
                data={
                    "category": question.category,
                    "question": messages[-1]["content"],
                    "turns": question.turns,
                },
            )

    def _fingerprint(self, samples: Sequence[Sample], questions: Sequence[QuestionText]) -> str:
        digest = hashlib.sha256(self.chat_template.encode())
        for sample in samples:
            digest.update(json.dumps((sample.id, sample.prompt, sample.reference)).encode())
        for question in questions:
            digest.update(json.dumps(question).encode())
        return digest.hexdigest()


def plain_text(messages: Sequence[Message]) -> str:
    """Return a conversation as the chat template `plain` writes it, up to the next reply."""
    return "".join(
        f"Question: {message['content']}\nAnswer:"
        if message["role"] == "user"
        else f" {message['content']}\n"
        for message in messages
    )


def _messages(turns: Sequence[str], replies: Sequence[str]) -> list[Message]:
    """Return the conversation so far; templates put the white space around a reply themselves."""
    found: list[Message] = []
    for turn, reply in zip(turns, replies, strict=False):
        found.append({"role": "user", "content": turn})
        found.append({"role": "assistant", "content": reply.strip()})
    return [*found, {"role": "user", "content": turns[len(replies)]}]


def _sample(question: QuestionText) -> Sample:
    return Sample(
        id=question.id,
        prompt=question.turns[0],
        reference="",
        data={
            "category": question.category,
            "question": question.turns[0],
            "turns": question.turns,
            "references": question.references,
            "templates": question.templates,
        },
    )


def _built_in(split: Split, train_conversations: int) -> list[QuestionText]:
    from .builtin.sample import TEST_CONVERSATIONS, conversations

    count = TEST_CONVERSATIONS if split == "test" else train_conversations
    return [
        QuestionText(each.id, each.category, each.turns, each.replies, OWN)
        for each in conversations(split, count)
    ]


def _notes(source: Source, count: int) -> tuple[str, ...]:
    if source.kind == "built-in":
        return (OWN_PROMPTS,)
    missing = () if count == WHOLE else (f"{count} of MT-bench's {WHOLE} conversations are there",)
    return (TEMPERATURE, *missing)
