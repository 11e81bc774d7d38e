"""A tokenizer and a model that start from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cllm_bench.decoding.chat_templates import TEMPLATES
from cllm_bench.engine.runtime import Attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END = "<|end|>"
PAD = "<|pad|>"


class Shape(Protocol):
    """The settings of a recipe that say how large a new model is."""

    @property
    def hidden(self) -> int:
        """The width, H."""
        ...

    @property
    def layers(self) -> int:
        """The number of layers."""
        ...

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        ...

    @property
    def feed_forward(self) -> int:
        """The width of the feed-forward layers."""
        ...

    @property
    def positions(self) -> int:
        """The longest sequence, in tokens."""
        ...

    @property
    def attention(self) -> Attention:
        """The attention implementation."""
        ...


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer that splits digits singly; its chat template is `plain`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=TEMPLATES["plain"],
    )


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a small Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from cllm_bench.engine.attention import register

    register()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=shape.attention,
    )
    return LlamaForCausalLM(config)
