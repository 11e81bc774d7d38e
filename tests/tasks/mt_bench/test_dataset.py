"""MT-bench's files, whole and damaged."""

import json
from collections import Counter

import pytest

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.mt_bench.dataset import WITH_REFERENCE, read_mt_bench
from cllm_bench_tasks.mt_bench.task import MtBench


@pytest.fixture
def bench(tmp_path):
    """A folder in FastChat's layout with two conversations."""
    (tmp_path / "mt_bench" / "reference_answer").mkdir(parents=True)
    prompts = [
        {
            "name": name,
            "type": "single",
            "system_prompt": "s",
            "prompt_template": template,
            "output_format": "[[rating]]",
        }
        for name, template in (
            ("single-v1", "{question} {answer}"),
            ("single-math-v1", "{question} {ref_answer_1} {answer}"),
            ("single-v1-multi-turn", "{question_1} {answer_1} {question_2} {answer_2}"),
            (
                "single-math-v1-multi-turn",
                "{question_1} {ref_answer_1} {question_2} {ref_answer_2} {answer_1} {answer_2}",
            ),
        )
    ]
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["a", "b"]},
        {"question_id": 111, "category": "math", "turns": ["c", "d"]},
    ]
    answers = [{"question_id": 111, "choices": [{"turns": ["e", "f"]}]}]
    for name, lines in (
        ("judge_prompts.jsonl", prompts),
        ("mt_bench/question.jsonl", questions),
        ("mt_bench/reference_answer/gpt-4.jsonl", answers),
    ):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_files_are_read(bench):
    writing, math = read_mt_bench(bench)
    assert (writing.id, writing.turns, writing.references) == ("81", ("a", "b"), ())
    assert math.references == ("e", "f")
    assert read_mt_bench(bench / "mt_bench") == (writing, math)  # the inner folder will do


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mt_bench/question.jsonl", "{", "question.jsonl line 1: no JSON"),
        ("mt_bench/question.jsonl", "", "is empty"),
        (
            "mt_bench/question.jsonl",
            '{"question_id": 81, "category": "math"}',
            "no field prompt or",
        ),
        ("mt_bench/reference_answer/gpt-4.jsonl", None, "no file"),
        ("judge_prompts.jsonl", None, "no file"),
        ("judge_prompts.jsonl", '{"name": "single-v1"}', "no judge prompt 'single-v1'"),
    ],
)
def test_damaged_files_are_named(bench, name, text, message):
    if text is None:
        (bench / name).unlink()
    else:
        (bench / name).write_text(text + "\n" if text else "", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_mt_bench(bench)


def test_a_folder_that_is_something_else(tmp_path):
    with pytest.raises(UserError, match="is no MT-bench folder"):
        read_mt_bench(tmp_path)


def test_the_real_files_are_whole(real_data):
    found = MtBench().samples(Source("folder", path=real_data / "llm_judge"))
    assert len(found.samples) == 80
    counts = Counter(sample.data["category"] for sample in found.samples)
    assert set(counts.values()) == {10}
    with_reference = {s.data["category"] for s in found.samples if s.data["references"]}
    assert with_reference == WITH_REFERENCE
    assert found.label == "MT-bench"
