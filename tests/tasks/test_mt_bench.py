"""MT-bench: its files, its prompts turn by turn, and the built-in conversations."""

import hashlib
import json
from collections import Counter

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from cllm_bench.contracts import Source
from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench.decoding.chat_templates import chat_ids
from cllm_bench.errors import UserError
from cllm_bench_tasks.mt_bench.builtin.sample import (
    CATEGORIES,
    TEST_CONVERSATIONS,
    conversations,
    split_of,
)
from cllm_bench_tasks.mt_bench.dataset import WITH_REFERENCE, read_mt_bench
from cllm_bench_tasks.mt_bench.task import MtBench, plain_text

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


def test_training_prompts_are_what_a_run_asks():
    """A model meets in the test what it was taught: text before each reply, to the character."""
    task = MtBench(train_conversations=16)
    taught = task.samples(Source(split="train")).samples
    asked = conversations("train", 16)
    assert len(taught) == 2 * len(asked)
    by_id = {each.id: each for each in taught}
    for each in asked:
        for turn in (0, 1):
            sample = by_id[f"{each.id}/turn-{turn + 1}"]
            past = [{"role": "user", "content": each.turns[0]}]
            if turn:
                past += [
                    {"role": "assistant", "content": each.replies[0]},
                    {"role": "user", "content": each.turns[1]},
                ]
            assert sample.prompt == plain_text(past) == rendered("plain", past)
            assert sample.reference == f" {each.replies[turn]}"


class Echo:
    """A tokenizer that only renders."""

    chat_template = None

    def __init__(self):
        self._real = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="x",
        )

    def apply_chat_template(self, *given, **options):
        self.text = self._real.apply_chat_template(*given, **options)
        return self.text

    def __call__(self, text, **_):
        return type("Encoded", (), {"input_ids": [len(text)]})


def rendered(template, messages):
    tokenizer = Echo()
    chat_ids(tokenizer, template, messages)
    return tokenizer.text


def test_vicuna_template_by_hand():
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    assert rendered("vicuna-v1.1", messages) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. "
        "USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:"
    )


def test_turns_and_their_past():
    task = MtBench()
    sample = task.samples(Source()).samples[0]
    assert task.turns(sample) == 2
    (first,) = task.messages(sample, [])
    assert first == {"role": "user", "content": sample.data["turns"][0]}
    past = task.messages(sample, [" Well.\n"])
    assert [each["role"] for each in past] == ["user", "assistant", "user"]
    assert past[1]["content"] == "Well."  # as the template puts its own white space
    assert task.score(sample, ["a", "b"]) is None


def test_stops_belong_to_the_template():
    task = MtBench()
    task.samples(Source())
    assert task.chat_template == "plain"
    assert task.stop == ("\nQuestion:",)
    assert MtBench(template="vicuna-v1.1").stop == ()


@pytest.mark.parametrize(
    ("settings", "source", "message"),
    [
        ({"template": "vicuna"}, None, "no template named 'vicuna'; did you mean 'vicuna-v1.1'"),
        ({"max_new_tokens": 0}, None, "give more than 0"),
        ({}, Source("hub"), "lack the judge prompts"),
        ({}, Source("folder", split="train"), "no training questions"),
        ({"template": "vicuna-v1.1"}, Source(split="train"), "leave out the setting `template`"),
    ],
)
def test_what_a_user_is_told(settings, source, message):
    with pytest.raises(UserError, match=message):
        MtBench(**settings).samples(source)


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
