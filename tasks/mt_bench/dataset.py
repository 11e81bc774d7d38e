"""Reads MT-bench in the layout of FastChat's fastchat/llm_judge/data (Zheng et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cllm_bench.data.json_lines import JsonLine, read_json_lines
from cllm_bench.errors import UserError

from .judge_prompts import BOTH_TURNS, ONE_TURN, REFERENCE, JudgeTemplate, Templates

QUESTIONS = "question.jsonl"
PROMPTS = "judge_prompts.jsonl"
REFERENCES = "reference_answer/gpt-4.jsonl"
WHOLE = 80  # conversations
# FastChat's NEED_REF_CATS: categories whose replies are judged beside a reference answer.
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
REMEDY = (
    "give --data mt_bench=FOLDER, the folder fastchat/llm_judge/data of "
    "https://github.com/lm-sys/FastChat"
)


class QuestionText(NamedTuple):
    """A conversation of two turns.

    Attributes:
        id: The data set's own.
        category: One of eight.
        turns: What the user says.
        references: Right answers to the turns; none where the category has none.
        templates: How a judge is asked.
    """

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...]
    templates: Templates


def read_mt_bench(folder: Path | None) -> tuple[QuestionText, ...]:
    """Read questions, reference answers and judge prompts.

    Raises:
        UserError: A file is missing or damaged, or a question lacks its reference answer.
    """
    bench = _bench(folder)
    prompts = _file(bench if (bench / PROMPTS).is_file() else bench.parent, PROMPTS)
    templates = _templates(prompts)
    references = _references(_file(bench, REFERENCES))
    found: dict[str, QuestionText] = {}
    for entry in read_json_lines(bench / QUESTIONS):
        question = _question(entry, references, templates)
        if question.id in found:
            raise entry.damaged(f"question_id {question.id} stands in an earlier line too")
        found[question.id] = question
    return tuple(found.values())


def _bench(folder: Path | None) -> Path:
    """Return the folder that holds the questions: the one given, or `mt_bench` in it."""
    if folder is None or not folder.is_dir():
        raise UserError(f"no folder '{folder}'; {REMEDY}")
    for place in (folder, folder / "mt_bench"):
        if (place / QUESTIONS).is_file():
            return place
    raise UserError(f"'{folder}' is no MT-bench folder: it has no mt_bench/{QUESTIONS}; {REMEDY}")


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise UserError(f"no file '{path}', without which nobody can judge a reply; {REMEDY}")
    return path


def _question(
    entry: JsonLine,
    references: Mapping[str, tuple[str, ...]],
    templates: Mapping[bool, Templates],
) -> QuestionText:
    name, category, turns = _id(entry), entry.text("category"), entry.asked()
    if len(turns) != 2:
        raise entry.damaged(f"question {name} has {len(turns)} turns, and its judge prompts ask 2")
    needed = category in WITH_REFERENCE
    if needed and name not in references:
        raise entry.damaged(f"question {name} ({category}) has no answer in {REFERENCES}")
    answers = references[name] if needed else ()
    return QuestionText(name, category, turns, answers, templates[needed])


def _references(path: Path) -> dict[str, tuple[str, ...]]:
    return {_id(entry): _answers(entry) for entry in read_json_lines(path)}


def _answers(entry: JsonLine) -> tuple[str, ...]:
    try:
        turns = entry.fields["choices"][0]["turns"]
    except (KeyError, IndexError, TypeError):
        raise entry.damaged("no field 'choices' with 'turns' in its first element") from None
    if not isinstance(turns, list) or len(turns) != 2 or not all(_is_text(turn) for turn in turns):
        raise entry.damaged("the first of 'choices' does not answer two turns")
    return tuple(turns)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _id(entry: JsonLine) -> str:
    value = entry.fields.get("question_id")
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise entry.damaged("no field 'question_id' with a number")
    return str(value)


def _templates(path: Path) -> dict[bool, Templates]:
    """Return the prompts without a reference answer, and those with one."""
    entries = {
        entry.text("name"): entry
        for entry in read_json_lines(path)
        if entry.fields.get("type") == "single"
    }

    def template(name: str, known: frozenset[str]) -> JudgeTemplate:
        if name not in entries:
            raise UserError(f"'{path}' has no judge prompt '{name}' of type single; {REMEDY}")
        return _template(entries[name], name, known)

    return {
        False: Templates(
            template("single-v1", ONE_TURN), template("single-v1-multi-turn", BOTH_TURNS)
        ),
        True: Templates(
            template("single-math-v1", ONE_TURN | REFERENCE),
            template("single-math-v1-multi-turn", BOTH_TURNS | REFERENCE),
        ),
    }


def _template(entry: JsonLine, name: str, known: frozenset[str]) -> JudgeTemplate:
    if entry.fields.get("output_format") != "[[rating]]":
        raise entry.damaged(f"the output_format of '{name}' is not [[rating]]")
    found = JudgeTemplate(name, entry.text("system_prompt"), entry.text("prompt_template"))
    try:
        unknown = found.fields() - known
    except ValueError as error:
        raise entry.damaged(f"the prompt_template of '{name}' is malformed ({error})") from None
    if unknown:
        raise entry.damaged(f"the prompt_template of '{name}' has a field {{{min(unknown)}}}")
    if not found.fields() & {"answer", "answer_2"}:
        raise entry.damaged(f"the prompt_template of '{name}' does not show the reply")
    return found
