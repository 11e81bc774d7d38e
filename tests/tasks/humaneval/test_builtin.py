"""The built-in functions to write: stable, disjoint, sound, short and varied."""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench_tasks.humaneval.builtin.sample import (
    FAMILIES,
    TEST_PROBLEMS,
    Function,
    functions,
    problems,
    split_of,
)

TRAIN = 4000
# A model is trained on this data: a change of these means that it must be trained anew.
TEST_DIGEST = "51bbe67369b147137857d0ddd2faacdd55fc8747c48d08b333b3da28ec9d58f8"
TRAIN_DIGEST = "9bffaaa4cd5dcd21426c30bce35803772997bc50f9717dc9fd746534e2fb052f"


def digest(found):
    return hashlib.sha256(repr([each.problem for each in found]).encode()).hexdigest()


@pytest.fixture(scope="module")
def test_split() -> tuple[Function, ...]:
    return functions("test", TEST_PROBLEMS)


@pytest.fixture(scope="module")
def train_split() -> tuple[Function, ...]:
    return functions("train", TRAIN)


@pytest.fixture(scope="module")
def both(test_split, train_split):
    return (*test_split, *train_split)


def test_data_are_frozen(test_split, train_split):
    assert digest(test_split) == TEST_DIGEST
    assert digest(train_split) == TRAIN_DIGEST


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_makes_the_same(test_split, seed):
    code = (
        "from cllm_bench_tasks.humaneval.builtin.sample import problems; import hashlib;"
        "print(hashlib.sha256(repr(list(problems('test', 60))).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == digest(test_split[:60])


def test_shorter_is_prefix_of_longer(test_split, train_split):
    assert functions("test", 50) == test_split[:50]
    assert problems("train", 300) == tuple(each.problem for each in train_split[:300])


def test_splits_share_no_way_of_putting_together(test_split, train_split):
    for name, split in (("test", test_split), ("train", train_split)):
        assert all(split_of(each.parts) == name for each in split)
    assert not {each.parts for each in test_split} & {each.parts for each in train_split}


def test_splits_share_nothing_that_functions_do(test_split, train_split):
    tested = {each.behaviour for each in test_split}
    assert len(tested) == TEST_PROBLEMS
    assert not tested & {each.behaviour for each in train_split}


def normal(function: Function, *, letters: bool = True) -> str:
    """The body without the names of values, without numbers and, if so asked, without letters."""
    tree = ast.parse(f"def f():\n{function.problem.solution}")
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
            node.id = names.setdefault(node.id, f"n{len(names)}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            node.value = 0
        elif isinstance(node, ast.Constant) and len(node.value) == 1 and not letters:
            node.value = ""
    return ast.dump(tree)


def test_hardly_a_test_function_is_a_training_function_with_other_names_and_numbers(
    test_split, train_split
):
    """By its text alone, without what the generator says about it."""
    trained = {normal(each) for each in train_split}
    same = [each.parts for each in test_split if normal(each) in trained]
    assert len(same) <= 0.02 * TEST_PROBLEMS


def test_no_question_is_in_both_and_few_are_nearly(test_split, train_split):
    train, test = (
        [Question(each.problem.id, each.problem.question) for each in split]
        for split in (train_split, test_split)
    )
    found = find_overlap(train, test, ngram=5, threshold=0.8)
    assert not found.exact
    assert len(found.near) <= 0.15 * TEST_PROBLEMS


def test_words_determine_the_function(both):
    meant: dict[str, str] = {}
    for each in both:
        names = ast.parse(each.problem.prompt).body[0].args.args
        question = each.problem.question
        question = re.sub(r"\d+", "0", re.sub(r"'.'", "'x'", question))
        for mark, name in zip("ABC", names, strict=False):
            question = re.sub(rf"\b{name.arg}\b", mark, question)
        body = normal(each, letters=False)
        assert meant.setdefault(question, body) == body


def test_families_are_all_present(test_split, train_split):
    counts = Counter(each.family for each in test_split)
    assert set(counts) == set(FAMILIES) == {each.family for each in train_split}
    assert min(counts.values()) >= 2
    assert max(counts.values()) <= 40


def test_functions_are_varied(train_split):
    assert len({each.parts for each in train_split}) > 0.75 * TRAIN
    assert len({each.problem.solution for each in train_split}) > 0.95 * TRAIN
    assert len({each.problem.prompt for each in train_split}) == TRAIN


def words(code: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", code)


def test_bodies_are_short(both):
    lengths = sorted(len(words(each.problem.solution)) for each in both)
    assert lengths[0] >= 4
    assert lengths[len(lengths) // 20] >= 8
    assert lengths[-len(lengths) // 20] <= 40
    assert lengths[-1] <= 60
    lines = Counter(each.problem.solution.count("\n") + 1 for each in both)
    assert 0.3 < lines[1] / len(both) < 0.7


def test_references_pass_their_tests_and_examples(both):
    for each in both[:600]:
        names: dict = {}
        problem = each.problem
        exec(problem.prompt + problem.solution + "\n\n" + problem.tests, names)
        function = names[problem.entry]
        names["check"](function)
        examples = re.findall(r"    >>> (.+)\n    (.+)\n", problem.prompt)
        assert 1 <= len(examples) <= 2
        for call, result in examples:
            assert repr(eval(call, names)) == result


def test_tests_notice_a_wrong_answer(test_split):
    for each in test_split:
        names: dict = {}
        exec(each.problem.tests, names)
        for wrong in (None, 0, "", [], True, False):
            with pytest.raises(AssertionError):
                names["check"](lambda *_, wrong=wrong: wrong)


def changed(solution: str):
    """Bodies with one constant or one comparison replaced."""
    for match in re.finditer(r"(?<![\w\[:])[3-9](?![\w\]])", solution):
        yield f"{solution[: match.start()]}{int(match[0]) + 1}{solution[match.end() :]}"
    for old, new in ((" > ", " < "), (" == ", " != "), (" and ", " or "), (' in "', ' not in "')):
        if old in solution and " not in " not in solution:
            yield solution.replace(old, new, 1)


def test_tests_notice_a_small_change(test_split):
    tried = missed = 0
    for each in test_split:
        problem = each.problem
        for body in changed(problem.solution):
            names: dict = {}
            exec(f"{problem.prompt}{body}\n\n{problem.tests}", names)
            tried += 1
            try:
                names["check"](names[problem.entry])
            except Exception:
                continue
            missed += 1
    assert tried > 150
    assert missed <= 0.03 * tried
