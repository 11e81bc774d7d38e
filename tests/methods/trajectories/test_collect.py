"""Collecting trajectories: each state is the model's; a killed collection goes on."""

import itertools
import json
from functools import cache

import pytest
import torch
from collections_of import LIMIT, SIZE, decoder_of, settings_of
from forked import ends_killed
from greedy_decoding import decode, expected_tokens, share
from killed_trainings import killed_collection
from random_models import VOCABULARY, tiny_model

from cllm_bench.errors import UserError
from cllm_bench_methods.jacobi.method import Guesses
from cllm_bench_methods.trajectories.collect import (
    Question,
    collect,
    read_records,
    records_of,
)


def silent(*_):
    pass


@pytest.fixture(scope="module")
def questions(llama, prompts):
    return [
        Question(f"q{index}", "tiny", tuple(prompt.tolist()), expected_tokens(llama, prompt, LIMIT))
        for index, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def collected(llama, questions, tmp_path_factory):
    """An uninterrupted collection: its folder, and its records."""
    folder = tmp_path_factory.mktemp("whole")
    collect(questions, decoder_of(llama), folder=folder, settings=settings_of(), listen=silent)
    return folder, read_records(folder)


@cache  # answers that are cut at many places share their states
def argmax(model, tokens):
    """The model's choice behind every token, without a cache or anything of this project's."""
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()


def by_answer(records):
    answers = {}
    for record in records:
        answers.setdefault(record.sample, []).append(record)
    return answers


def check_records(records, tokens, size, model=None):
    """Everything that holds for the records of one answer."""
    assert tuple(t for record in records for t in record.fixed_point) == tuple(tokens)
    for index, record in enumerate(records):
        assert record.block == index
        assert record.settled == tuple(tokens[: index * size])
        assert len(record.fixed_point) == min(size, len(tokens) - index * size)
        assert record.states[-1] == record.fixed_point
        assert len(record.states) <= size
        for state, following in itertools.pairwise(record.states):
            assert state != following
        for state in record.states:
            assert len(state) == len(record.fixed_point)
            assert state[0] == record.fixed_point[0]
        if model is not None:
            check_passes(model, record)


def check_passes(model, record):
    """Every state follows from the one before it by one parallel pass, the last from itself."""
    prefix = [*record.prompt, *record.settled]
    states = [*record.states, record.fixed_point]
    for state, following in itertools.pairwise(states):
        predicted = argmax(model, (*prefix, *state))[len(prefix) - 1 : -1]
        assert tuple(predicted) == following


@pytest.mark.parametrize("guess", ["prompt", "vocab", "pad", "last"])
@pytest.mark.parametrize("size", [2, 5, 8, 16])
def test_states_are_what_the_model_gives(llama, prompts, size, guess):
    decoder = decoder_of(llama, size, guess=guess)
    for (prompt,) in share(size + len(guess), 7, prompts):
        ids = tuple(prompt.tolist())
        found = decode(decoder, prompt)
        records = records_of("q", "t", ids, found, decoder.iterates, size)
        check_records(records, found.token_ids, size, llama)
        assert not any(record.finished for record in records)


def test_the_first_state_is_the_guess_that_inference_makes(llama, prompts):
    """A second decoder's draws, made from what had settled when the block began."""
    decoder = decoder_of(llama)
    for prompt in prompts[::3]:
        ids = prompt.tolist()
        found = decode(decoder, prompt)
        source = Guesses("prompt", list(ids), VOCABULARY, 0, seed=0)
        for record in records_of("q", "t", tuple(ids), found, decoder.iterates, SIZE):
            # The block's head is settled when its guesses are drawn.
            head = record.fixed_point[0]
            source.settle((head,))
            drawn = source.draw(SIZE - 1)
            length = len(record.fixed_point)
            if len(record.states) > 1:
                assert record.states[0] == (head, *drawn)[:length]
            source.settle(record.fixed_point[1:])


def test_stops_and_limits_anywhere_in_a_block(llama, prompts):
    decoder = decoder_of(llama)
    for prompt in prompts[::5]:
        tokens = expected_tokens(llama, prompt)
        for length in range(1, 20):
            for finished in (False, True):
                stop = {tokens[length - 1]} if finished else set()
                found = decode(decoder, prompt, limit=length, stop_ids=stop)
                ids = tuple(prompt.tolist())
                records = records_of("q", "t", ids, found, decoder.iterates, SIZE)
                check_records(records, found.token_ids, SIZE, llama if length > 8 else None)
                assert all(record.finished is finished for record in records)
                if finished:
                    assert records[-1].fixed_point[-1] in stop
                    assert all(t not in stop for t in found.token_ids[:-1])


def test_an_answer_of_one_token_is_one_record(llama, prompts):
    found = decode(decoder := decoder_of(llama), prompts[4], limit=1)
    (record,) = records_of("q", "t", (1,), found, decoder.iterates, SIZE)
    assert record.states == (found.token_ids,)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_collecting_keeps_within_the_models_positions(tmp_path, prompts, kind):
    length = {"gpt2": "n_positions"}.get(kind, "max_position_embeddings")
    small = tiny_model(kind, **{length: 32})
    questions = [Question(str(i), "t", tuple(p.tolist())) for i, p in enumerate(prompts[:14])]
    settings = settings_of(max_new_tokens=50, stop_ids=frozenset())
    collect(questions, decoder_of(small), folder=tmp_path, settings=settings, listen=silent)
    for question in questions:
        records = [each for each in read_records(tmp_path) if each.sample == question.sample]
        tokens = expected_tokens(small, torch.tensor(question.prompt), 32 - len(question.prompt))
        check_records(records, tokens, SIZE, small)
    long = Question("long", "t", (1,) * 32)
    with pytest.raises(UserError, match="prompt of 'long' has 32 tokens"):
        collect([long], decoder_of(small), folder=tmp_path / "x", settings=settings, listen=silent)


def test_a_collection(llama, questions, collected):
    folder, records = collected
    answers = by_answer(records)
    assert list(answers) == [question.sample for question in questions]
    for question in questions:
        tokens = expected_tokens(llama, torch.tensor(question.prompt), LIMIT, stop_id=3)
        mine = answers[question.sample]
        check_records(mine, tokens, SIZE)
        assert all(record.prompt == question.prompt for record in mine)
        assert all(record.finished == (tokens[-1] == 3) for record in mine)
    assert {record.finished for record in records} == {True, False}
    manifest = json.loads((folder / "manifest.json").read_text())
    tokens = sum(len(record.fixed_point) for record in records)
    assert manifest["prompts"] == len(questions)
    assert manifest["records"] == len(records)
    assert manifest["tokens"] == tokens
    finished = sum(answers[name][0].finished for name in answers)
    assert (manifest["finished"], manifest["unfinished"]) == (finished, len(answers) - finished)
    assert manifest["tokens_per_pass"] == (tokens - len(questions)) / manifest["passes"]
    assert manifest["block_size"] == SIZE
    assert manifest["max_new_tokens"] == LIMIT
    assert manifest["full"] is True
    assert manifest["seconds"] > 0
    assert len(manifest["shards"]) == -(-len(questions) // 4)


def test_datasets_reads_a_shard(collected, tmp_path):
    from datasets import Dataset

    folder, records = collected
    found = Dataset.from_parquet(
        str(folder / "shard-00000.parquet"), cache_dir=str(tmp_path), keep_in_memory=True
    )
    assert found.column_names == list(records[0]._fields)
    assert found[1]["states"] == [list(state) for state in records[1].states]


def test_fixed_points_alone_are_the_same_and_take_few_passes(llama, questions, collected, tmp_path):
    """References are right, wrong, short or not there."""
    _, records = collected
    spoilt = [
        question._replace(
            reference=(
                question.reference,
                question.reference[:9],
                (*question.reference[:5], 1, *question.reference[5:]),
                (),
            )[index % 4]
        )
        for index, question in enumerate(questions)
    ]
    passes = {}
    for name, asked in (("right", questions), ("spoilt", spoilt)):
        decoder = decoder_of(llama)
        folder = tmp_path / name
        collect(asked, decoder, folder=folder, settings=settings_of(full=False), listen=silent)
        found = read_records(folder)
        assert found == [each._replace(states=(each.fixed_point,)) for each in records]
        passes[name] = json.loads((folder / "manifest.json").read_text())["passes"]
    assert passes["right"] <= len(questions)
    assert passes["right"] < passes["spoilt"]


def test_an_existing_shard_is_not_decoded_again(llama, questions, collected, tmp_path):
    folder, records = collected
    for name in ("shard-00000.parquet", "shard-00002.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / ".shard-00001.parquet.tmp").write_bytes(b"half a shard")
    decoder = decoder_of(llama)
    seen = []
    decoder.observer = seen.append
    told = []
    for _ in range(2):
        collect(
            questions,
            decoder,
            folder=tmp_path,
            settings=settings_of(),
            listen=lambda *news: told.append(news),
        )
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        lost = json.loads((folder / "manifest.json").read_text())["passes"]
        assert len(seen) < lost == manifest["passes"]
        assert read_records(tmp_path) == records
    assert len(seen) == manifest["passes"] - _passes(folder, (0, 2))
    assert told[-1] == ("trajectories", len(questions), len(questions))


def _passes(folder, indices):
    from pyarrow import parquet

    files = [folder / f"shard-{index:05d}.parquet" for index in indices]
    return sum(
        json.loads(parquet.read_schema(file).metadata[b"cllm_bench"])["passes"] for file in files
    )


def test_two_ranks_leave_what_one_leaves(llama, questions, collected, tmp_path):
    options = {"folder": tmp_path, "settings": settings_of(), "listen": silent, "world_size": 2}
    collect(questions, decoder_of(llama), rank=1, **options)
    assert not (tmp_path / "manifest.json").exists()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"shard-{index:05d}.parquet" for index in (1, 3, 5)}
    with pytest.raises(UserError, match="no finished collection"):
        read_records(tmp_path)
    collect(questions, decoder_of(llama), rank=0, **options)
    assert read_records(tmp_path) == collected[1]


def test_a_killed_collection_goes_on(llama, questions, collected, tmp_path):
    log = tmp_path.with_suffix(".log")  # killed in the middle of the third shard
    ends_killed(log, killed_collection, questions, tmp_path, settings_of(), 10)
    whole = {file.name for file in tmp_path.glob("shard-*")}
    assert whole == {"shard-00000.parquet", "shard-00001.parquet"}
    kept = {name: (tmp_path / name).read_bytes() for name in whole}
    collect(questions, decoder_of(llama), folder=tmp_path, settings=settings_of(), listen=silent)
    assert read_records(tmp_path) == collected[1]
    assert {name: (tmp_path / name).read_bytes() for name in whole} == kept


@pytest.mark.parametrize(
    "changes", [{"max_new_tokens": 9}, {"stop_ids": frozenset()}, {"full": False}]
)
def test_another_collections_shards_are_refused(llama, questions, collected, changes):
    with pytest.raises(UserError, match="other questions or with other settings"):
        collect(
            questions,
            decoder_of(llama),
            folder=collected[0],
            settings=settings_of(**changes),
            listen=silent,
        )


def test_other_questions_and_other_guesses_are_refused(llama, questions, collected):
    options = {"folder": collected[0], "settings": settings_of(), "listen": silent}
    with pytest.raises(UserError, match="other questions or with other settings"):
        collect(questions[1:], decoder_of(llama), **options)
    with pytest.raises(UserError, match="other questions or with other settings"):
        collect(questions, decoder_of(llama, seed=1), **options)


@pytest.mark.parametrize("changes", [{"size": 4}, {"refill": "sliding"}])
def test_a_decoder_that_does_not_fit_is_refused(llama, questions, tmp_path, changes):
    with pytest.raises(UserError, match="need a decoder with refill=block and block_size=8"):
        collect(
            questions,
            decoder_of(llama, **changes),
            folder=tmp_path,
            settings=settings_of(),
            listen=silent,
        )


def test_broken_collections_are_refused(llama, questions, tmp_path):
    options = {"folder": tmp_path, "settings": settings_of(), "listen": silent}
    collect(questions[:8], decoder_of(llama), **options)
    shard = tmp_path / "shard-00001.parquet"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-00001.parquet' is missing"):
        read_records(tmp_path)
    shard.write_bytes(content[:-100] + bytes(100))
    with pytest.raises(UserError, match=r"shard-00001.parquet' is not the one"):
        read_records(tmp_path)
    with pytest.raises(UserError, match="is not a shard of trajectories; delete it"):
        collect(questions[:8], decoder_of(llama), **options)
    with pytest.raises(UserError, match="no finished collection"):
        read_records(tmp_path / "nowhere")


@pytest.mark.parametrize("changes", [{"max_new_tokens": 0}, {"shard_size": 0}, {"block_size": 1}])
def test_settings_out_of_range(changes):
    with pytest.raises(UserError, match="must be at least"):
        settings_of(**changes)
