"""Random models of a few thousand parameters, of every kind that the harness knows."""

VOCABULARY = 61


def tiny_config(kind: str, **changes):
    """A random model of a few thousand parameters; wide weights make its output varied."""
    import transformers

    common = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.6,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
    }
    grouped = shape | {"num_key_value_heads": 2}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
    cls, own = {
        "llama": (transformers.LlamaConfig, shape),
        "llama-grouped": (transformers.LlamaConfig, grouped),
        "qwen2": (transformers.Qwen2Config, grouped),
        "qwen3": (transformers.Qwen3Config, grouped | {"head_dim": 8}),
        "gpt2": (transformers.GPT2Config, gpt2),
        "gpt-neox": (transformers.GPTNeoXConfig, shape),
    }[kind]
    return cls(**common | own | changes)


KINDS = ("llama", "llama-grouped", "qwen2", "qwen3", "gpt2", "gpt-neox")


def tiny_model(kind: str, seed: int = 0, **changes):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).eval()
