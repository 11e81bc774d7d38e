"""Runs a recipe: its stages in order, each once, and the family directory that they leave."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cllm_bench.contracts import Recipe, Stage, TrainingJob
from cllm_bench.core.files import lock, write_atomically, writing
from cllm_bench.core.resume import difference
from cllm_bench.core.schema_version import SCHEMA, refuse_newer
from cllm_bench.core.settings import as_dict
from cllm_bench.engine.family import ModelFamily
from cllm_bench.engine.family_file import FILE, read_family
from cllm_bench.errors import UserError
from cllm_bench.machine.environment import code_hash, code_place, environment
from cllm_bench.machine.processes import barrier, is_main, join, on_main

Announce = Callable[[str], None]

LOCK = ".lock"
# Of these, versions and results are compared, not every edit.
_OWN_PACKAGES = {"cllm_bench", "cllm_bench_methods", "cllm_bench_tasks"}


def run_recipe(
    name: str,
    recipe: Recipe,
    job: TrainingJob,
    announce: Announce,
    siblings: Sequence[Path] = (),
) -> Path:
    """Run what is not done yet of a recipe, in `job.output`.

    Stages work in `job.output/training/ROLE/STAGE`; a stage that has returned is marked there and
    never run again, so repeating the command after an interruption goes on where it stopped. Where
    several processes were launched, each calls this, and only the main one writes and announces.

    Args:
        name: Of the recipe.
        recipe: With its settings.
        job: What to do.
        announce: Told each stage.
        siblings: Family directories of other trainings, whose stages with equal keys are taken.

    Returns:
        The family directory.

    Raises:
        UserError: The folder holds a training with other settings, or something else, or another
            process works in it.
        TrainingCollapsed: A fit went wrong, now or in an earlier attempt.
    """
    join(job.family.runtime.device)
    work = job.output / "training" / recipe.role
    stages = recipe.stages(job)
    with _claimed(work, name, recipe, job, announce):
        for stage in stages:
            _run_stage(stage, work, siblings, announce)
        on_main(lambda: write_family(job.output, job.family, recipe))
    return job.output


def _run_stage(stage: Stage, work: Path, siblings: Sequence[Path], announce: Announce) -> None:
    found = on_main(lambda: _done(stage, work, siblings))
    if is_main():
        announce(f"{stage.name}: {found}" if found else stage.name)
    if found:
        return
    stage.run(work / stage.name)
    barrier()
    on_main(lambda: write_atomically(work / f"{stage.name}.done", stage.key or ""))


def _done(stage: Stage, work: Path, siblings: Sequence[Path]) -> str | None:
    """Tell why a stage need not run, having taken it from a sibling if one has it."""
    mark = work / f"{stage.name}.done"
    if mark.exists():
        if stage.key and mark.read_text(encoding="utf-8") not in ("", stage.key):
            raise UserError(
                f"'{work}' holds a '{stage.name}' made from something else; pick another --output"
            )
        return "done before"
    for sibling in siblings if stage.key else ():
        source = sibling / "training" / work.name
        other = source / mark.name
        if other.is_file() and other.read_text(encoding="utf-8") == stage.key:
            _take(source / stage.name, work / stage.name)
            write_atomically(mark, stage.key or "")
            return f"taken from {sibling}"
    with writing(work):
        (work / stage.name).mkdir(exist_ok=True)
    return None


def _take(source: Path, folder: Path) -> None:
    """Copy a finished stage in place of what an interrupted attempt may have left."""
    copy = folder.with_name(f".{folder.name}.copying")
    with writing(folder):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        if folder.exists():
            shutil.rmtree(folder)
        copy.rename(folder)


@contextmanager
def _claimed(
    work: Path, name: str, recipe: Recipe, job: TrainingJob, announce: Announce
) -> Iterator[None]:
    """Hold the output folder for this training: no other process may work in it meanwhile."""
    held = on_main(lambda: _claim(work, name, recipe, job, announce))
    try:
        yield
    finally:
        if is_main():
            os.close(held)


def _claim(work: Path, name: str, recipe: Recipe, job: TrainingJob, announce: Announce) -> int:
    """Lock the folder; write down what is trained, or check that it is what was begun here."""
    configuration = _configuration(name, recipe, job)
    with writing(job.output):
        if job.output.exists() and not job.output.is_dir():
            raise UserError(f"'{job.output}' is a file; pick another --output")
        if _foreign(job.output):
            raise UserError(f"'{job.output}' holds something else; pick another --output")
        _refuse_other_weights(job, recipe)
        _refuse_windows(job, recipe)
        work.mkdir(parents=True, exist_ok=True)
        held = _lock(job.output, announce)
    try:
        _compare(work / "manifest.json", configuration, job.output)
    except BaseException:
        os.close(held)
        raise
    return held


def _lock(output: Path, announce: Announce) -> int:
    busy = f"'{output}' is in use by another training; wait for it, or pick another --output"
    held, trouble = lock(output / "training" / LOCK, busy)
    if trouble is not None:
        announce(f"'{output}' cannot be locked ({trouble}); start no second training in it")
    return held


def _compare(file: Path, configuration: Mapping[str, Any], output: Path) -> None:
    if not file.exists():
        manifest = {
            "schema": SCHEMA,
            **asdict(environment("cpu")),
            "configuration": configuration,
        }
        write_atomically(file, json.dumps(manifest, indent=2) + "\n")
        return
    stored = json.loads(file.read_text(encoding="utf-8"))
    refuse_newer(stored, file)
    before, asked = stored["configuration"], json.loads(json.dumps(configuration))
    if "code" not in before:  # begun before code was written down
        asked.pop("code", None)
    other = difference(before, asked, "training")
    if other is not None:
        raise UserError(f"'{output}' holds another training: {other}; pick another --output")


def _configuration(name: str, recipe: Recipe, job: TrainingJob) -> dict[str, Any]:
    """Return what decides the result of a training."""
    from cllm_bench.engine.loading import fingerprint

    return {
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
        **({"code": code} if (code := _code(recipe, job)) else {}),
    }


def _code(recipe: Recipe, job: TrainingJob) -> dict[str, str]:
    """Return hashes of the code of plug-ins: of the recipe, if it is one, and of its parts."""
    parts = getattr(recipe, "parts", None)
    classes = [type(recipe), *(parts(job) if parts else ())]
    foreign = [cls for cls in classes if cls.__module__.partition(".")[0] not in _OWN_PACKAGES]
    # What was typed at a prompt has no file.
    places = {
        code_place(cls) for cls in foreign if hasattr(sys.modules[cls.__module__], "__file__")
    }
    return {place.name: code_hash(place) for place in sorted(places)}


def _inputs(recipe: Recipe, job: TrainingJob) -> dict[str, Any]:
    return {role: job.family.checkpoint(role) for role in recipe.builds_on}


def _foreign(output: Path) -> bool:
    return output.is_dir() and any(output.iterdir()) and not (output / "training").is_dir()


def _refuse_other_weights(job: TrainingJob, recipe: Recipe) -> None:
    """Refuse to put a role beside weights that it was not made from."""
    from cllm_bench.engine.loading import fingerprint

    if not (job.output / FILE).exists():
        return
    there = read_family(job.output / FILE).roles
    inputs = _inputs(recipe, job)
    inputs.pop(recipe.role, None)  # trained further: what is there is this training's own
    for role, checkpoint in inputs.items():
        if role in there and fingerprint(there[role]) != fingerprint(checkpoint):
            raise UserError(
                f"'{job.output}' has another '{role}' than '{job.family.name}': train from it "
                f"with --model {job.output}, or pick another --output"
            )


def _refuse_windows(job: TrainingJob, recipe: Recipe) -> None:
    """Refuse at once what the fitting would refuse after all answers were collected."""
    from cllm_bench.engine.loading import load_config, refuse_window

    for checkpoint in _inputs(recipe, job).values():
        refuse_window(load_config(checkpoint), checkpoint.location)


def write_family(output: Path, family: ModelFamily, recipe: Recipe) -> None:
    """Write `family.toml`: the role just built, those it builds on, and those already there.

    How the family that it comes from is run stays as it is.
    """
    roles = {
        role: _relative(checkpoint.location, output)
        for role, checkpoint in _kept(output, family, recipe).items()
    }
    roles[recipe.role] = recipe.role
    lines = [f'name = "{output.resolve().name}"', "", "[roles]"]
    lines += [f"{json.dumps(role)} = {json.dumps(location)}" for role, location in roles.items()]
    run = {
        "threads": family.description.threads,
        "data": "built-in" if family.description.built_in else "",
    }
    lines += ["", "[run]"] if any(run.values()) else []
    lines += [f"{name} = {json.dumps(value)}" for name, value in run.items() if value]
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
