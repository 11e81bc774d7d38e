"""The built-in conversations: stable, disjoint and clean."""

import hashlib
from collections import Counter

import pytest

from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench_tasks.mt_bench.builtin.sample import (
    CATEGORIES,
    TEST_CONVERSATIONS,
    conversations,
    split_of,
)

# A model is trained on these conversations: a change of these means that it must be trained anew.
TEST_DIGEST = "dac578272c43fffd7f36a3ff28d8794c44f0294049adcd650087c9384df692b9"
TRAIN_DIGEST = "a3fd0c32cec5099861d9a41d6a634dae4f30f89c53fa93bf622491161bc48904"
TRAIN = 4000


def digest(items):
    told = [(c.id, c.category, c.facts, c.turns, c.replies) for c in items]
    return hashlib.sha256(repr(told).encode()).hexdigest()


@pytest.fixture(scope="module")
def test_split():
    return conversations("test", TEST_CONVERSATIONS)


@pytest.fixture(scope="module")
def train_split():
    return conversations("train", TRAIN)


def test_data_are_frozen(test_split, train_split):
    assert digest(test_split) == TEST_DIGEST
    assert digest(train_split) == TRAIN_DIGEST


def test_shorter_is_prefix_of_longer(test_split, train_split):
    assert conversations("test", 20) == test_split[:20]
    assert conversations("train", 100) == train_split[:100]


def test_there_are_two_hundred_replies_in_eight_categories(test_split):
    assert 2 * len(test_split) >= 200
    counts = Counter(each.category for each in test_split)
    assert counts.keys() == CATEGORIES.keys()
    assert set(counts.values()) == {TEST_CONVERSATIONS // len(CATEGORIES)}


def test_no_first_turn_of_the_test_comes_back_in_training(test_split, train_split):
    for name, told in (("test", test_split), ("train", train_split)):
        assert all(split_of(each.category, each.facts) == name for each in told)
    seen = {(each.category, each.facts) for each in train_split}
    assert not seen & {(each.category, each.facts) for each in test_split}
    assert len({(each.category, each.facts) for each in test_split}) == TEST_CONVERSATIONS
    assert len({each.turns for each in train_split}) == TRAIN


def test_near_duplicates_have_other_facts(test_split):
    train = conversations("train", 12_000)
    facts = {each.id: each.facts for each in (*train, *test_split)}
    found = find_overlap(
        (Question(each.id, " ".join(each.turns)) for each in train),
        [Question(each.id, " ".join(each.turns)) for each in test_split],
        ngram=5,
        threshold=0.7,
    )
    assert not found.exact
    for match in found.near:
        assert facts[match.test.id] != facts[match.train.id]


def test_conversations_are_clean_text(test_split, train_split):
    for each in (*test_split, *train_split):
        for text in (*each.turns, *each.replies):
            assert text == text.strip()
            assert text
            assert "  " not in text.replace("\n    ", "\n")  # code is indented
            assert "Question:" not in text  # it would end the reply before it
            assert "{" not in text or each.category in ("coding", "extraction")


def test_a_second_turn_makes_no_sense_alone(test_split):
    """Its reply tells something that the second turn does not."""
    for each in test_split:
        told = set(each.turns[1].split())
        assert set(each.replies[1].split()) - told, each
