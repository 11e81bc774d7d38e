"""The built-in word problems: stable, right, disjoint and varied."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench_tasks.common.words import MEN, POOLS, WOMEN, plural
from cllm_bench_tasks.gsm8k.builtin.sample import (
    STORIES,
    TEST_PROBLEMS,
    Problem,
    problems,
    split_of,
)

# A model is trained on this data: a change of these means that it must be trained anew.
TEST_DIGEST = "d15cd6ccce217ae015271c5aeabb7836ede686697ef73dfed9a47ce2bf6c7723"
TRAIN_DIGEST = "acd9fc579fd224b58d558bc02ecf0c5e774d43e027083af96877f7d51e62c640"
TRAIN = 4000
SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def digest(items):
    told = [(p.id, p.question, p.answer, p.story, p.numbers) for p in items]
    return hashlib.sha256(repr(told).encode()).hexdigest()


@pytest.fixture(scope="module")
def test_split():
    return problems("test", TEST_PROBLEMS)


@pytest.fixture(scope="module")
def train_split():
    return problems("train", TRAIN)


def test_data_are_frozen(test_split, train_split):
    assert digest(test_split) == TEST_DIGEST
    assert digest(train_split) == TRAIN_DIGEST


def test_another_process_makes_the_same(test_split):
    code = (
        "from cllm_bench_tasks.gsm8k.builtin.sample import problems; import hashlib;"
        "told = [(p.id, p.question, p.answer, p.story, p.numbers) for p in problems('test', 60)];"
        "print(hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == digest(test_split[:60])


def test_shorter_is_prefix_of_longer(test_split, train_split):
    assert problems("test", 50) == test_split[:50]
    assert problems("train", 300) == train_split[:300]
    assert problems("train", 0) == ()


def test_splits_share_no_set_of_numbers(test_split, train_split):
    for name, told in (("test", test_split), ("train", train_split)):
        assert all(split_of(p.numbers) == name for p in told)
    assert not {tuple(sorted(p.numbers)) for p in test_split} & {
        tuple(sorted(p.numbers)) for p in train_split
    }


def test_split_does_not_depend_on_the_order_of_the_numbers():
    for numbers in ((3, 4, 5), (12, 7, 40), (2, 9, 3, 8)):
        assert len({split_of(order) for order in itertools.permutations(numbers)}) == 1


def test_numbers_of_the_story_stand_in_the_question(test_split, train_split):
    """So disjoint numbers make disjoint questions."""
    for p in (*test_split, *train_split):
        assert sorted(map(int, re.findall(r"\d+", p.question))) == sorted(p.numbers)


def test_nothing_comes_twice(test_split, train_split):
    assert len({(p.story, p.numbers) for p in test_split}) == TEST_PROBLEMS
    assert len({p.question for p in train_split}) == TRAIN
    assert len({p.id for p in (*test_split, *train_split)}) == TEST_PROBLEMS + TRAIN


def test_near_duplicates_are_few_and_have_other_numbers(test_split):
    """Stories are shared, and so are some of their runs of words; numbers never are."""
    train = problems("train", 20_000)
    numbers = {p.id: p.numbers for p in (*train, *test_split)}
    found = find_overlap(
        (Question(p.id, p.question) for p in train),
        [Question(p.id, p.question) for p in test_split],
        ngram=5,
        threshold=0.7,
    )
    assert not found.exact
    assert len(found.near) <= TEST_PROBLEMS // 50
    for match in found.near:
        assert sorted(numbers[match.test.id]) != sorted(numbers[match.train.id])


def test_answers_are_worked_out_from_what_is_known(test_split, train_split):
    for p in (*test_split, *train_split):
        *steps, last = p.answer.split("\n")
        known = {*p.numbers, 2}  # 2 is half
        for step in steps:
            ((first, sign, second, result),) = SUM.findall(step)
            assert {int(first), int(second)} <= known, p
            left, right = int(first), int(second)
            value = {
                "+": left + right,
                "-": left - right,
                "*": left * right,
                "/": left / right,
            }[sign]
            assert value == int(result), p
            assert 2 <= value <= 99, p
            known.add(int(result))
        assert last == f"#### {result}", p
        assert 2 <= len(steps) <= 3


def test_the_wordings_of_a_story_agree():
    """What the numbers do decides the answer, however the story is told."""
    for name, story in STORIES.items():
        assert len(story.wordings) >= 2, name
        sums = {
            tuple(re.findall(r"\[(.+?)\]", " ".join(wording.steps))) for wording in story.wordings
        }
        assert len(sums) == 1, name
        (only,) = sums
        used = set(re.findall(r"\b[a-d]\b", " ".join(only)))
        assert used == set("abcd"[: len(story.ranges)]), name


def choices(text):
    parts = re.split(r"\(([^()]*)\)", text)
    options = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*options)]


def test_every_choice_of_words_is_a_clean_sentence():
    told = 0
    for story in STORIES.values():
        for wording in story.wordings:
            for text in choices(wording.question):
                told += 1
                assert text == text.strip()
                assert text.endswith("?")
                assert not re.search(r"  | [.,?]|[|()\[\]]|\.\.", text), text
                assert all(f"{{{letter}}}" in text for letter in "abcd"[: len(story.ranges)])
    assert told > 5000


def test_pronouns_and_words_fit(train_split):
    assert not set(WOMEN) & set(MEN)
    for p in train_split:
        text = f"{p.question} {p.answer}"
        assert not re.search(r"[{}\[\]|()]", text), p
        found = set(re.findall(r"\b(she|her|he|him)\b", text.lower()))
        assert not {"she", "her"} & found or not {"he", "him"} & found, p
        if found:
            assert set(re.findall(r"\w+", text)) & set(WOMEN if "she" in found else MEN), p


def test_stories_and_words_are_all_present(test_split, train_split):
    stories = Counter(p.story for p in test_split)
    assert set(stories) == set(STORIES)
    assert min(stories.values()) >= 4
    assert max(stories.values()) <= 22
    words = set(re.findall(r"\w+", " ".join(p.question for p in train_split)))
    assert {*WOMEN, *MEN} <= words
    for pool in POOLS.values():
        assert {plural(thing) for thing in pool.things} <= words


def test_answers_have_the_length_that_small_models_decode_well(test_split, train_split):
    from cllm_bench_methods.target.from_scratch import train_tokenizer

    tokenizer = train_tokenizer([f"{p.question} {p.answer}" for p in train_split], 768)
    lengths = [len(tokenizer(f" {p.answer}").input_ids) for p in test_split]
    assert 38 <= sum(lengths) / len(lengths) <= 50
    assert min(lengths) >= 25
    assert max(lengths) <= 70


def test_a_problem_as_it_is_told(test_split):
    first = test_split[0]
    assert isinstance(first, Problem)
    assert first.question == (
        "A shop sold 8 trays of muffins on Friday, with 3 in each tray. It also sold 36 single "
        "muffins. How many muffins were sold?"
    )
    assert first.answer == (
        "In the trays there were 8 * 3 = 24 muffins.\nIn all it sold 24 + 36 = 60 muffins.\n#### 60"
    )
