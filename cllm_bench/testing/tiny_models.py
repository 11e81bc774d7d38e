"""Tiny random models for contract tests: written to a temporary folder, without a network.

They are wide at initialisation, so that what they say varies from prompt to prompt; one more is
narrow and soon repeats itself, so that guesses come true. A further role gets the target's weights
with some noise on them, so that it often agrees with the target, and not always.
"""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers.utils.logging import disable_progress_bar

from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.family_file import FamilyDescription
from cllm_bench.engine.runtime import Runtime

RoleBuilder = Callable[[Path, Path], None]  # the role's folder, to be written; the target's

_NOISE = 0.05  # on a further role's weights, in standard deviations of each


class Shape(NamedTuple):
    """What a tiny model is like.

    Attributes:
        kind: A key of `KINDS`.
        vocabulary: Token ids, V.
        positions: How long a sequence may get.
        width: Standard deviation of the weights.
    """

    kind: str
    vocabulary: int = 61
    positions: int = 1024
    width: float = 0.6


KINDS: Mapping[str, str] = {
    "Llama": "LlamaConfig",
    "Qwen2": "Qwen2Config",
    "GPT-2": "GPT2Config",
    "GPT-NeoX": "GPTNeoXConfig",
}
VARIED = {kind: Shape(kind) for kind in KINDS} | {
    "Llama that repeats itself": Shape("Llama", width=0.13)
}
SHORT = {f"{kind} of 32 positions": Shape(kind, positions=32) for kind in ("Llama", "GPT-2")}
FEW = Shape("Llama", vocabulary=6, positions=64, width=0.4)


@functools.cache
def tiny_family(
    name: str, shape: Shape, roles: tuple[str, ...], builders: tuple[tuple[str, RoleBuilder], ...]
) -> ModelFamily:
    """Return a family of tiny models, float32 on the CPU.

    Args:
        name: As failures show it.
        shape: Of every model in it.
        roles: Those that the family has, `target` in any case.
        builders: By role, what writes a checkpoint where an ordinary causal model does not serve.
    """
    found = {"target": _checkpoint(shape, "target", None)}
    for role in roles:
        if role != "target":
            found[role] = _checkpoint(shape, role, dict(builders).get(role))
    runtime = Runtime("cpu", "float32", threads=1)
    return ModelFamily(FamilyDescription(name, found), runtime)


@functools.cache
def _checkpoint(shape: Shape, role: str, builder: RoleBuilder | None) -> Checkpoint:
    folder = Path(tempfile.mkdtemp(dir=_folder())) / role
    if builder is not None:
        builder(folder, Path(_checkpoint(shape, "target", None).location))
    else:
        disable_progress_bar()
        _model(shape, role).save_pretrained(folder)
        _tokenizer(shape.vocabulary).save_pretrained(folder)
    return Checkpoint(str(folder))


@functools.cache
def _folder() -> Path:
    """Make the temporary folder, which goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="cllm-bench-testing-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _model(shape: Shape, role: str) -> transformers.PreTrainedModel:
    """Make a role's model, the same in every process; random numbers elsewhere stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(_config(shape))
        if role != "target":
            torch.manual_seed(random.Random(role).getrandbits(32))
            with torch.no_grad():
                for weight in model.parameters():
                    weight += torch.randn_like(weight) * weight.std() * _NOISE
    return model


def _config(shape: Shape) -> Any:
    grouped = {"num_key_value_heads": 2}
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": shape.positions,
    }
    own: dict[str, Any] = {
        "Llama": common,
        "Qwen2": common | grouped,
        "GPT-2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": shape.positions},
        "GPT-NeoX": common,
    }[shape.kind]
    return getattr(transformers, KINDS[shape.kind])(
        vocab_size=shape.vocabulary,
        initializer_range=shape.width,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **own,
    )


def _tokenizer(vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of so many words, the last of which ends a reply."""
    words = {f"w{index}": index for index in range(vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=f"w{vocabulary - 1}"
    )
