"""The prompts for a judge of MT-bench: those of the data set, or the project's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from cllm_bench.contracts import JudgePrompt

# What a prompt may show of one turn, of both, and of right answers to them.
ONE_TURN = frozenset({"question", "answer"})
BOTH_TURNS = frozenset({"question_1", "question_2", "answer_1", "answer_2"})
REFERENCE = frozenset({"ref_answer_1", "ref_answer_2"})


class JudgeTemplate(NamedTuple):
    """A judge prompt with fields in braces, in the form of FastChat's judge_prompts.jsonl."""

    name: str
    system: str
    user: str

    def fields(self) -> frozenset[str]:
        """Return the names of its fields.

        Raises:
            ValueError: A brace is not closed, or a field is none.
        """
        return frozenset(name for _, name, _, _ in Formatter().parse(self.user) if name is not None)


class Templates(NamedTuple):
    """The prompts about the first turn and about the second."""

    first: JudgeTemplate
    second: JudgeTemplate


# The built-in sample has no official prompts. Every one of its turns has a reference reply.
_OWN_TASK = (
    "Grade a reply to a short task. A reply that says the same as the reference in other words is "
    "as good as the reference; one with a wrong name, number, word or form is not. Explain "
    "yourself in one or two sentences, then give a whole number from 1 (useless) to 10 (nothing "
    'to improve) in double brackets, as in "Rating: [[5]]".'
)
_OWN_SYSTEM = "You grade what language models write. You are strict and fair."
OWN = Templates(
    JudgeTemplate(
        "own-v1",
        _OWN_SYSTEM,
        f"{_OWN_TASK}\n\nTask:\n{{question}}\n\nReference:\n{{ref_answer_1}}\n\nReply to grade:\n"
        "{answer}",
    ),
    JudgeTemplate(
        "own-v1-second-turn",
        _OWN_SYSTEM,
        f"{_OWN_TASK} The task came in two turns: grade the reply to the second.\n\n"
        "First turn:\n{question_1}\n\nReference:\n{ref_answer_1}\n\nReply:\n{answer_1}\n\n"
        "Second turn:\n{question_2}\n\nReference:\n{ref_answer_2}\n\nReply to grade:\n{answer_2}",
    ),
)


def judge_prompt(
    templates: Templates, turns: Sequence[str], replies: Sequence[str], references: Sequence[str]
) -> JudgePrompt:
    """Fill in the prompt about the last of the replies.

    Args:
        templates: For each turn.
        turns: Both of the user's.
        replies: One or two.
        references: Both, or none where the prompts ask for none.
    """
    said = [reply.strip() for reply in replies]
    fields: Mapping[str, str] = {
        **{f"ref_answer_{turn}": text for turn, text in enumerate(references, 1)},
        **{f"question_{turn}": text for turn, text in enumerate(turns, 1)},
        **{f"answer_{turn}": text for turn, text in enumerate(said, 1)},
        "question": turns[0],
        "answer": said[0],
    }
    template = templates[len(replies) - 1]
    return JudgePrompt(template.system, template.user.format_map(fields))
