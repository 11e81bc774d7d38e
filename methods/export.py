"""A trained model as a checkpoint in Hugging Face's layout, with its log and its settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cllm_bench.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def leave_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    work: Path,
    fit: Path,
) -> None:
    """Write weights, tokenizer, `training_log.jsonl` and `training_config.json`.

    Args:
        model: Rounded to bfloat16 in place.
        tokenizer: That it was trained with.
        target: The checkpoint's folder; appears whole or not at all.
        work: Folder of the training, with its manifest.
        fit: Folder of the optimiser, with its log.
    """
    import torch

    from cllm_bench.optimise import LOG

    part = target.with_name(f".{target.name}.writing")
    shutil.rmtree(part, ignore_errors=True)
    # For half the size; a run computes in its own precision whatever the file's.
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.copyfile(fit / LOG, part / "training_log.jsonl")
    manifest = json.loads((work / "manifest.json").read_text(encoding="utf-8"))
    kept = {key: manifest[key] for key in ("configuration", "versions")}
    for report in fit.glob("cleaning.json"):
        kept["cleaning"] = json.loads(report.read_text(encoding="utf-8"))
    write_atomically(part / "training_config.json", json.dumps(kept, indent=2) + "\n")
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
