"""MT-bench: its prompts turn by turn."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from cllm_bench.contracts import Source
from cllm_bench.decoding.chat_templates import chat_ids
from cllm_bench.errors import UserError
from cllm_bench_tasks.mt_bench.builtin.sample import conversations
from cllm_bench_tasks.mt_bench.task import MtBench, plain_text


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
