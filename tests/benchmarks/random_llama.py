"""Writes a family of Llamas with random weights: latency does not depend on their values.

    python tests/benchmarks/random_llama.py FOLDER [--target 7b] [--draft 1b] [--cllm] [--medusa]

Shapes are in `SHAPES`; 7b is 13.5 GB in bfloat16. All roles have the target's vocabulary and the
tokenizer of `mini`. Weights are written layer by layer from one pool of random numbers, so that
even a 7B takes seconds, and little memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from cllm_bench.engine.family import find_family
from cllm_bench_methods.medusa.heads import shapes_of, write_heads

SPREAD = 0.02  # standard deviation of weights
POOL = 2**24 + 43  # random numbers; odd, so that no two rows of a matrix are equal
MEDUSA_HEADS = 4


class Shape(NamedTuple):
    """What decides how long a pass takes; vocabulary, positions and heads' size are common."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int = 32000


SHAPES = {
    "7b": Shape(4096, 32, 32, 32, 11008),  # Llama 2
    "1b": Shape(2048, 16, 32, 8, 8192),  # Llama 3.2, but for its vocabulary
    "0.1b": Shape(768, 12, 12, 12, 3072),
    "tiny": Shape(64, 2, 4, 2, 128, 1024),
}


class Noise:
    """Normal random numbers in bfloat16, drawn once and handed out in turn."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._pool = (torch.randn(POOL, generator=generator) * SPREAD).to(torch.bfloat16)
        self._next = 0

    def take(self, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        copies = 1 + (self._next + count) // POOL
        found = self._pool.repeat(copies)[self._next : self._next + count]
        self._next = (self._next + count) % POOL
        return found.clone().view(shape)


def config_of(shape: Shape, tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def shards(config: LlamaConfig, noise: Noise) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the weights of each layer, and those of no layer."""
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in LlamaForCausalLM(config).state_dict().items()}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        layer = name.removeprefix("model.layers.").split(".")[0]
        groups.setdefault(layer if layer.isdigit() else "", []).append(name)
    for names in groups.values():
        yield {
            name: torch.ones(shapes[name], dtype=torch.bfloat16)  # of a norm
            if len(shapes[name]) == 1
            else noise.take(shapes[name])
            for name in names
        }


def write_model(folder: Path, shape: Shape, tokenizer, seed: int) -> None:
    """Write a model and its tokenizer, as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape, tokenizer)
    places, total = {}, 0
    for number, weights in enumerate(shards(config, Noise(seed))):
        file = f"model-{number:05}.safetensors"
        save_file(weights, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(weights, file)
        total += sum(each.nbytes for each in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)  # last: with it the folder is a checkpoint


def write_medusa(folder: Path, shape: Shape) -> None:
    """Write heads that share the model's projection, as published ones of large models do."""
    folder.mkdir(parents=True, exist_ok=True)
    projection = (shape.vocabulary, shape.hidden)
    shapes, noise = shapes_of(MEDUSA_HEADS, 1, projection, own=False), Noise(3)
    heads = {name: noise.take(each) for name, each in shapes.items()}
    write_heads(folder, heads, {"model_type": "medusa", "medusa_num_heads": MEDUSA_HEADS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", choices=SHAPES, default="7b")
    parser.add_argument("--draft", choices=SHAPES)
    parser.add_argument("--cllm", action="store_true", help="of the target's shape")
    parser.add_argument("--medusa", action="store_true")
    options = parser.parse_args()

    tokenizer = find_family("mini").tokenizer
    target = SHAPES[options.target]
    models = {"target": target}
    if options.cllm:
        models["cllm"] = target
    if options.draft:
        models["draft"] = SHAPES[options.draft]._replace(vocabulary=target.vocabulary)
    for seed, (role, shape) in enumerate(models.items()):
        write_model(options.folder / role, shape, tokenizer, seed)
    roles = [*models]
    if options.medusa:
        write_medusa(options.folder / "medusa", target)
        roles.append("medusa")
    lines = [
        f'name = "random-{options.target}"',
        "[roles]",
        *(f'{each} = "{each}"' for each in roles),
    ]
    lines += ["[run]", 'data = "built-in"']
    (options.folder / "family.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
