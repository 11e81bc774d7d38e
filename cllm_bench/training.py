"""Runs a recipe: its stages in order, each once, and the family directory that they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cllm_bench.contracts import Recipe, TrainingJob
from cllm_bench.errors import UserError
from cllm_bench.family import FILE, ModelFamily, read_family
from cllm_bench.files import write_atomically
from cllm_bench.manifest import environment
from cllm_bench.results import difference
from cllm_bench.settings import as_dict

Announce = Callable[[str], None]


def run_recipe(name: str, recipe: Recipe, job: TrainingJob, announce: Announce) -> Path:
    """Run what is not done yet of a recipe, in `job.output`.

    Stages work in `job.output/training/ROLE/STAGE`; a stage that has returned is marked there and
    never run again, so repeating the command after an interruption goes on where it stopped.

    Returns:
        The family directory.

    Raises:
        UserError: The folder holds a training with other settings, or something else.
    """
    work = job.output / "training" / recipe.role
    stages = recipe.stages(job)
    _claim(work, name, recipe, job)
    for stage in stages:
        folder = work / stage.name
        mark = work / f"{stage.name}.done"
        if mark.exists():
            announce(f"{stage.name}: done before")
            continue
        announce(stage.name)
        folder.mkdir(exist_ok=True)
        stage.run(folder)
        write_atomically(mark, "")
    write_family(job.output, job.family, recipe)
    return job.output


def _claim(work: Path, name: str, recipe: Recipe, job: TrainingJob) -> None:
    """Write down what is trained, or check that it is what was begun here before."""
    from cllm_bench.loading import fingerprint

    configuration = {
        "recipe": name,
        "settings": as_dict(recipe),
        "model": {
            role: fingerprint(checkpoint) for role, checkpoint in _inputs(recipe, job).items()
        },
        "tasks": {
            label: {
                "settings": as_dict(task),
                "source": found.label,
                "questions": len(found.samples),
                "data": found.fingerprint,
            }
            for label, (task, found) in job.tasks.items()
        },
    }
    file = work / "manifest.json"
    if not file.exists():
        if job.output.exists() and not job.output.is_dir():
            raise UserError(f"'{job.output}' is a file; pick another --output")
        if _foreign(job.output):
            raise UserError(f"'{job.output}' holds something else; pick another --output")
        work.mkdir(parents=True, exist_ok=True)
        manifest = environment("cpu") | {"configuration": configuration}
        write_atomically(file, json.dumps(manifest, indent=2) + "\n")
        return
    stored = json.loads(file.read_text(encoding="utf-8"))["configuration"]
    other = difference(stored, json.loads(json.dumps(configuration)), "training")
    if other is not None:
        raise UserError(f"'{job.output}' holds another training: {other}; pick another --output")


def _inputs(recipe: Recipe, job: TrainingJob) -> Mapping[str, Any]:
    return {role: job.family.checkpoint(role) for role in recipe.builds_on}


def _foreign(output: Path) -> bool:
    return output.is_dir() and any(output.iterdir()) and not (output / "training").is_dir()


def write_family(output: Path, family: ModelFamily, recipe: Recipe) -> None:
    """Write `family.toml`: the role just built, those it builds on, and those already there."""
    roles = {
        role: _relative(checkpoint.location, output)
        for role, checkpoint in _kept(output, family, recipe).items()
    }
    roles[recipe.role] = recipe.role
    lines = [f'name = "{output.resolve().name}"', "", "[roles]"]
    lines += [f"{json.dumps(role)} = {json.dumps(location)}" for role, location in roles.items()]
    write_atomically(output / FILE, "\n".join(lines) + "\n")


def _kept(output: Path, family: ModelFamily, recipe: Recipe) -> dict[str, Any]:
    kept = {role: family.checkpoint(role) for role in recipe.builds_on}
    if (output / FILE).exists():
        kept |= read_family(output / FILE).roles
    return {role: checkpoint for role, checkpoint in kept.items() if role != recipe.role}


def _relative(location: str, output: Path) -> str:
    """Write checkpoints inside the family directory relative to it, so that it can be moved."""
    path = Path(location)
    if path.is_absolute() and path.is_relative_to(output.resolve()):
        return os.fspath(path.relative_to(output.resolve()))
    return location
