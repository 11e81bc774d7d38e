import json
import random

import pytest

from cllm_bench.errors import UserError
from cllm_bench_methods.trajectories.cleaning import augment, clean_records, prepare
from cllm_bench_methods.trajectories.shards import Record

GOOD = tuple(range(100, 120))


def decode(ids):
    return "".join(map(chr, ids))


def answer(sample, tokens, *, prompt=(1,), finished=True, size=8, task="t"):
    tokens = tuple(map(ord, tokens)) if isinstance(tokens, str) else tuple(tokens)
    return [
        Record(
            sample,
            task,
            start // size,
            prompt,
            tokens[:start],
            (tokens[start : start + size],),
            tokens[start : start + size],
            finished,
        )
        for start in range(0, len(tokens), size)
    ]


def reasons(tokens, **options):
    records = answer("a", tokens)
    kept, report = clean_records(records, decode, **options)
    assert kept == ([] if report.dropped else records)
    return list(report.dropped)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (GOOD, []),
        ((*GOOD, *"7" * 9, *GOOD), []),
        ("costs 777777777", []),  # nine digits
        ("costs 7777777777", ["token_run"]),  # ten
        ("SELECT " + "a , b " * 3, []),  # three times is no loop
        ("SELECT " + "a , b " * 8, ["ngram_loop"]),
        ("SELECT " + "name of one singer and " * 5, ["ngram_loop"]),
        ("I do not know. Well, I do not know. But i do not KNOW. Oh.", []),
        ("I do not know. Well. I do not know! But\ni do  not KNOW; Oh.", ["sentence_loop"]),
        ("I do not know. Well. I do not know. But so it is.", []),  # twice
        ("I know it. Well. I know it. Now, I know it. I know it. Oh.", []),  # three words
        ("one two t.a three four t.a one two t.a three four t.a one two t.a three", []),
    ],
)
def test_repetition(tokens, expected):
    tokens = [ord(each) if isinstance(each, str) else each for each in tokens]
    assert reasons(tokens) == expected
    assert reasons(tokens, repetitive=False) == []


def test_a_loop_across_blocks_is_found_and_all_blocks_go():
    records = answer("good", GOOD) + answer("bad", (*GOOD[:12], *(5,) * 10, *GOOD))
    random.Random(1).shuffle(records)
    kept, report = clean_records(records, decode)
    assert kept == [record for record in records if record.sample == "good"]
    assert (report.answers, report.records) == (2, len(records))
    assert (report.kept_answers, report.kept_records) == (1, len(kept))
    dropped = report.dropped["token_run"]
    assert (dropped.answers, dropped.records, dropped.samples) == (1, 6, ["bad"])


def test_the_prompt_does_not_count():
    records = answer("a", GOOD, prompt=(5,) * 50)
    assert clean_records(records, decode)[0] == records


def test_a_run_that_only_the_prompt_completes_is_kept():
    records = answer("a", ((5,) * 9 + GOOD), prompt=(5,) * 9)
    assert clean_records(records, decode)[0] == records


def test_the_same_id_in_two_tasks_is_two_answers():
    records = answer("a", GOOD, task="one") + answer("a", (5,) * 12, task="two")
    kept, report = clean_records(records, decode)
    assert {record.task for record in kept} == {"one"}
    assert report.dropped["token_run"].answers == 1


def test_unfinished_answers_go_on_request():
    records = answer("a", GOOD, finished=False) + answer("b", GOOD)
    assert clean_records(records, decode)[0] == records
    kept, report = clean_records(records, decode, unfinished=True)
    assert {record.sample for record in kept} == {"b"}
    assert report.dropped["unfinished"].samples == ["a"]


def test_an_answer_counts_once_and_a_report_names_twenty():
    records = [record for i in range(30) for record in answer(f"s{i}", (5,) * 12, finished=False)]
    kept, report = prepare(records, augment=0.0, clean=True, unfinished=True, seed=0, decode=decode)
    assert kept == []
    assert list(report["dropped"]) == ["unfinished"]
    assert report["dropped"]["unfinished"]["answers"] == 30
    assert report["dropped"]["unfinished"]["records"] == 60
    assert report["dropped"]["unfinished"]["samples"] == [f"s{i}" for i in range(20)]
    assert json.loads(json.dumps(report)) == report


def trajectory(length=400, states=6, seed=3):
    """States in which about half of the tokens are wrong."""
    source = random.Random(seed)
    right = tuple(range(1000, 1000 + length))
    early = tuple(
        (right[0], *(token if source.random() < 0.5 else 0 for token in right[1:]))
        for _ in range(states - 1)
    )
    return Record("a", "t", 0, (1,), (), (*early, right), right, True)


def wrong(state, right):
    return [index for index, token in enumerate(state) if token != right[index]]


def test_augmenting_overwrites_half_of_the_wrong_tokens_behind_the_first():
    record = trajectory()
    found = augment(record, random.Random(0))
    assert found._replace(states=record.states) == record
    assert found.states[-2:] == record.states[-2:]
    for before, after in zip(record.states[:-2], found.states[:-2], strict=True):
        first, *rest = wrong(before, record.fixed_point)
        still = wrong(after, record.fixed_point)
        assert still[0] == first  # the first wrong token stays wrong
        assert set(still) <= {first, *rest}
        assert all(after[index] == before[index] for index in still)
        assert 0.4 < (len(still) - 1) / len(rest) < 0.6


def test_the_share_of_augmentation():
    record = trajectory()
    assert augment(record, random.Random(0), share=0.0) == record
    whole = augment(record, random.Random(0), share=1.0)
    assert all(len(wrong(state, record.fixed_point)) == 1 for state in whole.states[:-2])


@pytest.mark.parametrize("states", [1, 2])
def test_short_trajectories_are_left_alone(states):
    record = trajectory(states=states)
    assert augment(record, random.Random(0), share=1.0) == record


def test_prepare_reports_what_augmentation_touched():
    records = [trajectory(seed=seed)._replace(sample=str(seed)) for seed in range(4)]
    records.append(trajectory(states=2)._replace(sample="short"))
    options = {"clean": False, "unfinished": False, "decode": decode}
    found, report = prepare(records, augment=0.5, seed=1, **options)
    touched = sum(
        old != new
        for before, after in zip(records, found, strict=True)
        for one, other in zip(before.states, after.states, strict=True)
        for old, new in zip(one, other, strict=True)
    )
    assert report["augmented_tokens"] == touched > 0
    assert report["augmented_records"] == 4
    assert prepare(records, augment=0.5, seed=1, **options)[0] == found
    assert prepare(records, augment=0.5, seed=2, **options)[0] != found
    assert prepare(records, augment=0.0, seed=1, **options)[0] == records
    # What is drawn for a record does not depend on those around it.
    assert prepare(records[2:], augment=0.5, seed=1, **options)[0] == found[2:]


def test_a_share_above_one_is_refused():
    with pytest.raises(UserError, match="between 0 and 1, not 1"):
        prepare([], augment=1.5, clean=True, unfinished=False, seed=0, decode=decode)
