import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCABULARY = 61


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


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


@pytest.fixture(scope="session", params=KINDS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="session")
def prompts():
    """Token ids, of length 1 to 40."""
    import torch

    generator = torch.Generator().manual_seed(7)
    lengths = [1, 2, 3, *range(5, 40, 2)]
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets, where it is at hand."""
    path = Path(
        os.environ.get("CLLM_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not path.is_dir():
        pytest.skip("no real data sets here: set CLLM_BENCH_DATA to their folder")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A family of two checkpoints, and a plugin with a task, on disk."""
    from families import write_family, write_task

    folder = tmp_path_factory.mktemp("tiny")
    return write_family(folder), write_task(folder)


@pytest.fixture
def command(tiny):
    """The beginning of a run of the tiny task on the tiny family."""
    family, plugin = tiny
    tiny_run = ["--model", family, "--plugin", plugin, "--task", "counting", "--threads", 1]
    return ["run", *tiny_run, "--no-noise-floor"]
