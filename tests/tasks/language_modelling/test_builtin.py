"""The built-in texts: stable, disjoint, long enough, and like their models."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from itertools import chain

import pytest

from cllm_bench.contracts import Source
from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench_tasks.language_modelling.builtin.grammar import split_of
from cllm_bench_tasks.language_modelling.builtin.news import NEWS
from cllm_bench_tasks.language_modelling.builtin.pools import POOLS
from cllm_bench_tasks.language_modelling.builtin.sample import (
    TEST_ARTICLES,
    articles,
    passages,
    text,
)
from cllm_bench_tasks.language_modelling.builtin.wiki import WIKI
from cllm_bench_tasks.language_modelling.ptb import PennTreebank
from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2

TASKS = {"wiki": Wikitext2, "news": PennTreebank}
TRAIN = 3000


# A model is trained on these texts: a change of them means that it must be trained anew.
DIGESTS = {
    ("wiki", "test"): "72a328d05c0dc3a5711379cbc62a9206e733115dd83908094c165603786a54a1",
    ("wiki", "train"): "80cf5105cbf3ac0a0425c36ef17f8b6fd8d0c1896fbce89a6c239d84cd20080c",
    ("news", "test"): "462e0b96b4d2c4509831221c0d833833234a12853d37fcfdf85a899cc3b7f41d",
    ("news", "train"): "1cc5a0f839118bc4a20c8624a832e7ad40cdb8ccd819753b178a1c6d17bafb3d",
}


def digest(found):
    told = [(each.id, each.prompt, each.reference) for each in found]
    return hashlib.sha256(repr(told).encode()).hexdigest()


@pytest.fixture(scope="module")
def built():
    return {
        (manner, split): passages(manner, split, count)
        for manner in TASKS
        for split, count in (("test", TEST_ARTICLES), ("train", TRAIN))
    }


@pytest.mark.parametrize("manner", TASKS)
def test_the_built_in_split_for_training(manner, built):
    found = TASKS[manner](train_passages=300).samples(Source(split="train"))
    assert [(s.id, s.prompt, s.reference) for s in found.samples] == [
        (each.id, each.prompt, each.reference) for each in built[manner, "train"][:300]
    ]
    assert TASKS[manner]().train_passages == 20_000
    assert all(sample.prompt and sample.reference.strip() for sample in found.samples)


@pytest.mark.parametrize("manner", TASKS)
def test_the_built_in_passages_are_stretches_of_the_text(manner, built):
    content = TASKS[manner]().text(Source()).content
    for each in built[manner, "test"]:
        assert each.prompt + each.reference in content
        assert each.reference[0].isspace()
    asked = TASKS[manner]().samples(Source()).samples
    assert [sample.id for sample in asked] == [each.id for each in built[manner, "test"][::10]]


def test_texts_are_frozen(built):
    assert {key: digest(found) for key, found in built.items()} == DIGESTS


def test_another_process_writes_the_same(built):
    code = (
        "from cllm_bench_tasks.language_modelling.builtin.sample import passages; import hashlib;"
        "told = [(p.id, p.prompt, p.reference) for m in ('wiki', 'news')"
        " for p in passages(m, 'test', 40)];"
        "print(hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    own = chain.from_iterable(built[manner, "test"][:40] for manner in TASKS)
    assert made.stdout.strip() == digest(own)


@pytest.mark.parametrize("manner", TASKS)
def test_a_shorter_text_is_the_beginning_of_a_longer_one(manner, built):
    assert passages(manner, "train", 100) == built[manner, "train"][:100]
    assert text(manner, "test", TEST_ARTICLES).startswith(text(manner, "test", 20))


@pytest.mark.parametrize("manner", TASKS)
def test_the_text_is_long_enough(manner, built):
    from cllm_bench_methods.target.from_scratch import train_tokenizer

    learned = [each.prompt + each.reference for each in built[manner, "train"]]
    tokenizer = train_tokenizer(learned, 1024)
    content = TASKS[manner]().text(Source()).content
    assert 20_000 <= len(tokenizer(content).input_ids) <= 60_000
    assert len(content) > 80_000


def sentences(found):
    return [sentence for article in found for _, part in article.parts for sentence in part]


@pytest.mark.parametrize("manner", TASKS)
def test_no_sentence_of_the_test_stands_in_the_training_text(manner):
    test = sentences(articles(manner, "test", TEST_ARTICLES))
    train = sentences(articles(manner, "train", TRAIN))
    assert all(split_of(sentence) == "test" for sentence in test)
    assert all(split_of(sentence) == "train" for sentence in train)
    assert not set(test) & set(train)
    assert len(set(test)) > 0.9 * len(test)


@pytest.mark.parametrize("manner", TASKS)
def test_articles_are_distinct_and_no_near_duplicates(manner, built):
    whole = {
        split: [Question(each.id, each.prompt + each.reference) for each in built[manner, split]]
        for split in ("test", "train")
    }
    assert len({question.text for question in whole["train"]}) == TRAIN
    found = find_overlap(whole["train"], whole["test"], ngram=5, threshold=0.5)
    assert not found.exact
    assert not found.near


@pytest.mark.parametrize("manner", TASKS)
def test_the_text_has_the_look_of_its_model(manner):
    content = text(manner, "test", TEST_ARTICLES)
    assert not re.search(r"[{}()|]|  ", content)
    assert not re.search(r"\b[aA] [aeiou]", content)
    if manner == "wiki":
        assert re.search(r"^= [^=]+ =$", content, re.MULTILINE)
        assert re.search(r"^= = History = =$", content, re.MULTILINE)
        assert " @,@ " in content
        assert " @-@ " in content
        assert not re.search(r"\w[.,](\s|$)", content)
    else:
        assert not re.search(r"[A-MO-Z]|N[^ ]|[^ ]N", content)
        assert not re.search(r"[0-9,;]", content)
        assert "<unk>" in content


@pytest.mark.parametrize("topics", [WIKI, NEWS])
def test_every_slot_has_words_and_every_topic_its_templates(topics):
    for topic in topics:
        assert set(topic.facts.values()) <= set(POOLS)
        slots = set(re.findall(r"\{(\w+)\}", repr(topic)))
        assert slots <= set(POOLS) | set(topic.facts), topic.title
        for part in topic.parts:
            assert 0 < part.length[0] <= part.length[1] < len(part.others)
            for template in (*part.first, *part.others):
                assert not re.search(r"\([^()]*\(", template)
                assert template.count("(") == template.count(")")
    for name, pool in POOLS.items():
        assert len(set(pool)) == len(pool) >= 4, name
