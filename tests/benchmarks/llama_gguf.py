"""Writes a Llama checkpoint as GGUF, llama.cpp's format of models, in float32.

llama.cpp's Llama turns neighbouring pairs of a head's values by their position; transformers' turns
value i with value i + D/2. So the rows of the query and key projections change places, as in
llama.cpp's own converter (convert_hf_to_gguf.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from numpy.typing import NDArray

from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Weights = NDArray[np.float32]

# What the format has no key for, and the only value of it that can be written.
ONLY = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}


def write_gguf(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_id: int
) -> None:
    """Write weights, shape and vocabulary.

    Args:
        path: The file.
        model: A Llama, its weights as transformers has them.
        tokenizer: Byte-level BPE.
        stop_id: The token that ends a reply.

    Raises:
        UserError: It is another architecture, or another kind of tokenizer.
    """
    refuse_unknown(model.config)
    writer = gguf.GGUFWriter(path, "llama")
    add_shape(writer, model.config)
    add_vocabulary(writer, tokenizer, model.config.vocab_size, stop_id)
    for name, weights in tensors(model).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refuse_unknown(config: PreTrainedConfig) -> None:
    """Raise a `UserError` where the file would describe another model."""
    wrong = {name: getattr(config, name, None) for name in ONLY}
    wrong = {name: value for name, value in wrong.items() if value != ONLY[name]}
    if config.rope_parameters.get("rope_type", "default") != "default":
        wrong["rope_type"] = config.rope_parameters["rope_type"]
    if wrong:
        told = ", ".join(f"{name} {value}" for name, value in wrong.items())
        raise UserError(f"only a plain Llama is written as GGUF here, and this one has {told}")


def add_shape(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def add_vocabulary(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int, stop_id: int
) -> None:
    """Write the tokens, which the server must be able to turn into text.

    Prompts come as ids, so how text is split into words before merging is never used: it is one
    that llama.cpp knows, not this tokenizer's.
    """
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    if stored["model"]["type"] != "BPE" or (stored["decoder"] or {}).get("type") != "ByteLevel":
        raise UserError("only the vocabulary of a byte-level BPE tokenizer is written as GGUF here")
    special = {token["id"] for token in stored["added_tokens"] if token["special"]}
    tokens: list[str] = []
    kinds: list[gguf.TokenType] = []
    for token_id in range(size):
        text = tokenizer.convert_ids_to_tokens(token_id)
        kind = gguf.TokenType.CONTROL if token_id in special else gguf.TokenType.NORMAL
        if text is None:  # the model has room for more tokens than the tokenizer knows
            text, kind = f"[UNUSED {token_id}]", gguf.TokenType.UNUSED
        tokens.append(text)
        kinds.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in stored["model"]["merges"]])
    writer.add_eos_token_id(stop_id)
    writer.add_add_bos_token(False)


def tensors(model: PreTrainedModel) -> dict[str, Weights]:
    """Return the weights by the names that the format gives them, a tied output left out."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found: dict[str, Weights] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weights = tensor.float().numpy()
        projection = name.split(".")[-2]
        if projection in heads:
            weights = paired(weights, heads[projection])
        found[names.get_name(name, try_suffixes=(".weight",))] = weights
    return found


def paired(
    weights: Weights,  # (heads · D, H)
    heads: int,
) -> Weights:
    """Return rows i and i + D/2 of each head as rows 2i and 2i + 1."""
    rows, width = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, width)
