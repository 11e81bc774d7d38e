"""A small trained family, and a tiny one with a tiny task, to drive the program in seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from random_models import tiny_model

SMALL = Path(__file__).parents[1] / "families" / "small"  # trained; it has learnt `spider` only

TASK = '''
from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Sample, SampleSet


@dataclass(frozen=True)
class Counting:
    """Prompts without sense; a reply is right when it has an even number of characters."""

    metric: ClassVar[str] = "evenness"
    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ("counting",)

    max_new_tokens: int = 20
    count: int = 8
    longest: int = 30

    @property
    def stop(self):
        return ("\\n\\n",)

    def samples(self, source):
        found = [
            Sample(str(i), "one two three four five"[: 5 + i % self.longest], "xx")
            for i in range(self.count)
        ]
        return SampleSet(tuple(found), source.kind, "plain-v1", "f" * 64, {"odd": ("x9",)})

    def score(self, sample, replies):
        return float(len(replies[0]) % 2 == 0)
'''


def write_checkpoint(folder, kind="llama", seed=0, **changes):
    """Save a random model with a tokenizer that it shares with every other such checkpoint."""
    from cllm_bench_methods.target.from_scratch import train_tokenizer

    tokenizer = train_tokenizer(["one two three four five six seven eight"] * 4, 300)
    tokenizer.chat_template = None  # as of a checkpoint without chat training
    model = tiny_model(kind, seed=seed, vocab_size=len(tokenizer), **changes)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_family(folder):
    """A family of two checkpoints, `target` and `other`."""
    for seed, role in enumerate(("target", "other")):
        write_checkpoint(folder / role, seed=seed)
    (folder / "family.toml").write_text(
        'name = "tiny"\n[roles]\ntarget = "target"\nother = "other"\n', encoding="utf-8"
    )
    return folder


def write_task(folder):
    file = folder / "counting.py"
    file.write_text(TASK, encoding="utf-8")
    return file


def write_coding_task(folder, monkeypatch):
    """A plugin with the task `coding`, which runs code; and a sandbox that is not tight.

    Returns the arguments that ask for the task, and what was found out about the sandbox.
    """
    from cllm_bench.sandbox import isolation as sandbox_strength

    file = folder / "coding.py"
    marked = "    runs_code: ClassVar[bool] = True\n    metric"
    text = TASK.replace("Counting", "Coding").replace('"counting"', '"coding"')
    file.write_text(text.replace("    metric", marked, 1), encoding="utf-8")
    reach = {"files": "programs can reach your files"}
    weak = sandbox_strength.Strength(("memory",), reach, {"Landlock": "too old"})
    monkeypatch.setattr(sandbox_strength, "strength", lambda: weak)
    monkeypatch.setattr(sandbox_strength, "_less_is_allowed", False)
    return ["--plugin", file, "--task", "coding:max_new_tokens=8"], weak


def cli(monkeypatch, *arguments):
    """Run the program in this process; return its exit code."""
    from cllm_bench.cli.app import main

    monkeypatch.setattr(sys, "argv", ["cllm-bench", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


def rows(folder):
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
