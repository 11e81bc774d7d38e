"""Conversations as token ids: by the checkpoint's own chat template, or by a named one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cllm_bench.contracts import Message
from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECKPOINT = "checkpoint"

# In the language of chat templates. vicuna-v1.1 is FastChat's conversation template of that name
# (lm-sys/FastChat, fastchat/conversation.py): a space after the system's text and the user's, the
# end token after the assistant's, without a space behind it. plain is for models without chat
# training, such as the bundled family.
TEMPLATES = {
    "vicuna-v1.1": (
        "{{ bos_token or '' }}"
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. "
        "{% for message in messages %}"
        "{% if message.role == 'user' %}USER: {{ message.content }} ASSISTANT:"
        "{% else %} {{ message.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    "plain": (
        "{% for message in messages %}"
        "{% if message.role == 'user' %}Question: {{ message.content }}\nAnswer:"
        "{% else %} {{ message.content }}\n{% endif %}"
        "{% endfor %}"
    ),
}


def chat_ids(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: Sequence[Message]
) -> list[int]:
    """Return the ids of a conversation that waits for the assistant's next reply.

    Args:
        tokenizer: Of the checkpoint.
        template: `checkpoint`, or one of `TEMPLATES`.
        messages: The conversation so far; the last is the user's.

    Raises:
        UserError: There is no such template, or the tokenizer has none.
    """
    text = TEMPLATES.get(template)
    if text is None and template != CHECKPOINT:
        known = ", ".join((CHECKPOINT, *TEMPLATES))
        raise UserError(f"chat template '{template}' is not one of {known}")
    if text is None and not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template; name one with template="
            f"{'|'.join(TEMPLATES)} in the task's settings"
        )
    rendered = tokenizer.apply_chat_template(
        list(messages), chat_template=text, tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(rendered, add_special_tokens=False).input_ids)
