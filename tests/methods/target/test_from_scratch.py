"""The tokenizer of a target that is trained from scratch."""

from cllm_bench.contracts import Message, Sample
from cllm_bench.decoding.chat_templates import chat_ids
from cllm_bench_methods.recipes.examples import encode
from cllm_bench_methods.target.from_scratch import train_tokenizer


def test_the_tokenizer_splits_digits_and_gives_any_text_back():
    tokenizer = train_tokenizer(["SELECT name FROM singer WHERE age > 123"] * 5, 300)
    text = "SELECT näme FROM 'x' WHERE age > 1234 \n"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    decoded = [tokenizer.decode([token]).strip() for token in ids]
    digits = [text for text in decoded if text.isdigit()]
    assert digits == list("1234")
    (example,) = encode([Sample("1", "SELECT", " name")], tokenizer)
    assert example.answer[-1] == tokenizer.eos_token_id
    talk: list[Message] = [{"role": "user", "content": "SELECT what?"}]
    assert chat_ids(tokenizer, "checkpoint", talk) == chat_ids(tokenizer, "plain", talk)
