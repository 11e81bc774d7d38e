"""Answers of the target end at stop strings, as in a run."""

from types import SimpleNamespace

import pytest
import torch
from collections_of import LIMIT, SIZE

from cllm_bench.contracts import Sample, TrainingJob
from cllm_bench.decoding.loop import generate
from cllm_bench.engine.family import find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench_methods.cllm.evaluation import Watch
from cllm_bench_methods.jacobi.method import Jacobi
from cllm_bench_methods.recipes.examples import encode
from cllm_bench_methods.trajectories.target_answers import (
    TargetAnswers,
    TaskQuestion,
    collection_key,
    examples_of,
)


def silent(*_):
    pass


@pytest.fixture(scope="module")
def family(tiny):
    return find_family(str(tiny[0]), runtime=Runtime("cpu", "float32", threads=1))


def asked_of(family, *stop):
    """Prompts of a task with these stop strings, and the job of learning them."""
    task = SimpleNamespace(
        max_new_tokens=LIMIT, stop=stop, best_score=1.0, score=lambda sample, replies: None
    )
    samples = [Sample(str(i), "one two three four five"[: 5 + i], "six") for i in range(6)]
    found = SimpleNamespace(fingerprint="f", samples=samples)
    examples = encode(samples, family.tokenizer)
    asked = [TaskQuestion("t", task, *each) for each in zip(samples, examples, strict=True)]
    return asked, TrainingJob(family, {"t": (task, found)}, None, silent)


def answers_of(family, folder, *stop, full):
    asked, job = asked_of(family, *stop)
    answers = TargetAnswers(job, folder, asked)
    answers.collect(folder, full=full, block_size=SIZE)
    _, records = answers.records(folder)
    return [each.answer for each in examples_of(records).values()]


def ended(tokenizer, tokens, stop):
    """Tokens up to the one that completes the string."""
    counts = range(1, len(tokens) + 1)
    ends = (count for count in counts if stop in tokenizer.decode(tokens[:count]))
    return tokens[: next(ends, None)]


@pytest.fixture(scope="module")
def unstopped(family, tmp_path_factory):
    """Answers of a task without stop strings, and a text that stands in the midst of one."""
    answers = answers_of(family, tmp_path_factory.mktemp("unstopped"), full=False)
    texts = [family.tokenizer.decode([token]).strip() for token in answers[0][3:-3]]
    return answers, next(text for text in texts if text.isascii() and text.isprintable() and text)


@pytest.mark.parametrize("full", [False, True])
def test_stop_strings_end_answers_as_in_a_run(family, unstopped, tmp_path, full):
    answers, stop = unstopped
    expected = [ended(family.tokenizer, answer, stop) for answer in answers]
    assert expected != answers
    assert answers_of(family, tmp_path, stop, full=full) == expected
    with pytest.raises(UserError, match="other questions or with other settings"):
        answers_of(family, tmp_path, full=full)
    keys = [collection_key(asked_of(family, *each)[1], ()) for each in ((), (stop,), ("x", stop))]
    assert len(set(keys)) == 3


def test_stop_strings_end_watched_answers_as_in_a_run(family, unstopped, monkeypatch):
    answers, stop = unstopped
    asked, _ = asked_of(family, stop)
    found = []

    def kept(*args, **options):
        found.append(generate(*args, **options))
        return found[-1]

    monkeypatch.setattr("cllm_bench.decoding.loop.generate", kept)
    watch = Watch(asked, family.tokenizer, family.stop_ids, Jacobi(SIZE), family.pad_id)
    with torch.no_grad():
        watch(family.model("target"))
    limit = 2 * max(len(each.example.answer) for each in asked) + SIZE
    expected = [ended(family.tokenizer, answer[:limit], stop) for answer in answers]
    assert [list(each.token_ids) for each in found] == expected
    assert any(each.finish == "stop" for each in found)
