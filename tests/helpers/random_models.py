"""Random models of a few thousand parameters, of every kind that the harness knows."""

VOCABULARY = 61
WINDOW = 96  # of kinds with a sliding window


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
    sized = grouped | {"head_dim": 8}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
    window = {"sliding_window": WINDOW}
    mixed = window | {"layer_types": ["sliding_attention", "full_attention"]}
    multipliers = {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    }
    half_turned = {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
    own = {
        "llama": ("Llama", shape),
        "llama-grouped": ("Llama", grouped),
        "qwen2": ("Qwen2", grouped),
        "qwen3": ("Qwen3", sized),
        "gpt2": ("GPT2", gpt2),
        "gpt-neox": ("GPTNeoX", shape),
        "mistral": ("Mistral", grouped | window),
        "phi3": ("Phi3", grouped | half_turned | {"sliding_window": None}),
        "olmo2": ("Olmo2", shape),
        "olmo2-grouped": ("Olmo2", grouped),
        "gemma": ("Gemma", sized),
        "gemma2": ("Gemma2", sized | mixed | {"query_pre_attn_scalar": 8}),
        "gemma3": ("Gemma3Text", sized | mixed | {"query_pre_attn_scalar": 8}),
        "granite": ("Granite", grouped | multipliers),
        "smollm3": ("SmolLM3", grouped | {"no_rope_layers": [1, 0]}),
        "starcoder2": ("Starcoder2", grouped | window),
        "phi": ("Phi", shape),
        "stablelm": ("StableLm", grouped | {"qk_layernorm": False}),
        "gpt-neox-sequential": ("GPTNeoX", shape | {"use_parallel_residual": False}),
        "cohere": ("Cohere", grouped),
        "gpt-oss": ("GptOss", sized | {"num_local_experts": 2, "num_experts_per_tok": 1}),
    }
    if kind == "gemma3-seeing":  # its text part is a model inside a model
        return transformers.Gemma3Config(
            text_config=common | sized | mixed | {"query_pre_attn_scalar": 8} | changes,
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            **common,
        )
    family, settings = own[kind]
    return getattr(transformers, f"{family}Config")(**common | settings | changes)


KINDS = ("llama", "llama-grouped", "qwen2", "qwen3", "gpt2", "gpt-neox")
# Kinds of further families; the tests of layers and of windows meet them, not every test.
FURTHER = (
    "mistral",
    "phi3",
    "olmo2",
    "olmo2-grouped",
    "gemma",
    "gemma3",
    "granite",
    "smollm3",
    "starcoder2",
    "phi",
    "stablelm",
    "gpt-neox-sequential",
    "gemma3-seeing",
)
# Kinds that run with their own layers.
UNFUSED = ("cohere",)


def tiny_model(kind: str, seed: int = 0, **changes):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).eval()
