"""A trained model as a checkpoint in Hugging Face's layout, with its log and its settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cllm_bench.core.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cllm_bench.contracts import Recipe
    from cllm_bench.engine.checkpoint import Checkpoint
    from cllm_bench.engine.family import ModelFamily

LOG = "training_log.jsonl"
CONFIG = "training_config.json"
BEFORE = "before"


def leave_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    work: Path,
    fit: Path,
    parent: Checkpoint | None = None,
) -> None:
    """Write weights, tokenizer, `training_log.jsonl` and `training_config.json`.

    Log and settings of a checkpoint that was trained further are kept in the folder `before`.

    Args:
        model: Rounded to bfloat16 in place.
        tokenizer: That it was trained with.
        target: The checkpoint's folder; appears whole or not at all.
        work: Folder of the training, with its manifest.
        fit: Folder of the optimiser, with its log.
        parent: The checkpoint that was trained further.
    """
    import torch

    part = target.with_name(f".{target.name}.writing")
    shutil.rmtree(part, ignore_errors=True)
    # For half the size; a run computes in its own precision whatever the file's.
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    leave_log(part, work, fit)
    if parent is not None and (Path(parent.location) / CONFIG).is_file():
        _keep_before(Path(parent.location), part / BEFORE)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)


def parent_of(recipe: Recipe, family: ModelFamily) -> Checkpoint | None:
    """Return the checkpoint that a recipe trains further, if it does: it builds on its own role."""
    return family.checkpoint(recipe.role) if recipe.role in recipe.builds_on else None


def leave_log(folder: Path, work: Path, fit: Path) -> None:
    """Put log and settings of a training into a checkpoint's folder; see `leave_checkpoint`."""
    from cllm_bench.training import trainer as optimise

    shutil.copyfile(fit / optimise.LOG, folder / LOG)
    manifest = json.loads((work / "manifest.json").read_text(encoding="utf-8"))
    kept = {key: manifest[key] for key in ("configuration", "versions")}
    for report in fit.glob("cleaning.json"):
        kept["cleaning"] = json.loads(report.read_text(encoding="utf-8"))
    write_atomically(folder / CONFIG, json.dumps(kept, indent=2) + "\n")


def _keep_before(parent: Path, folder: Path) -> None:
    folder.mkdir()
    for name in (LOG, CONFIG):
        shutil.copyfile(parent / name, folder / name)
    if (parent / BEFORE).is_dir():
        shutil.copytree(parent / BEFORE, folder / BEFORE)
