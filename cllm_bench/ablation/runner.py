"""Trains the variants of a recipe, then measures all of them in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cllm_bench.ablation.plan import Ablation
from cllm_bench.ablation.report import TrainedVariant, training_figures
from cllm_bench.ablation.variants import Variant
from cllm_bench.contracts import Listen, Sampling
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.measurement.plan import RunPlan
from cllm_bench.results.folder import AblationFolder, ResultFolder

SEED = 0  # of order and statistics


def train(ablation: Ablation, progress: Listen, console: Console) -> list[TrainedVariant]:
    """Train what is not trained yet; a training that collapses becomes an entry without figures."""
    entries: list[TrainedVariant] = []
    siblings: list[Path] = []
    for number, variant in enumerate(ablation.variants, 1):
        heading = f"variant {number} of {len(ablation.variants)}"
        collapse = _trained(ablation, variant, siblings, progress, f"{heading} · {variant.label}")
        outcome = "trained" if collapse is None else collapse
        console.print(f"{heading}: {variant.label}: {outcome}", soft_wrap=True, highlight=False)
        siblings.append(ablation.folder(variant))
        checkpoint = ablation.folder(variant) / variant.recipe.role
        trained = training_figures(checkpoint, ablation.material)
        entries.append(TrainedVariant(variant, ablation.spec(variant), collapse, trained))
    return entries


def _trained(
    ablation: Ablation, variant: Variant, siblings: Sequence[Path], progress: Listen, heading: str
) -> str | None:
    """Train one variant; return how it collapsed, if it did."""
    from cllm_bench.training.recipe_runner import run_recipe

    def listen(what: str, done: int, total: int) -> None:
        progress(f"{heading} · {what}", done, total)

    job = ablation.job(variant, listen)
    listen("starting", 0, 1)
    try:
        run_recipe(ablation.name, variant.recipe, job, lambda text: listen(text, 0, 1), siblings)
    except TrainingCollapsed as error:
        text = str(error).removeprefix("the training ")
        return text if text.startswith("collapsed") else f"collapsed: {text}"
    _refuse_other_tokenizer(ablation, variant)
    return None


def _refuse_other_tokenizer(ablation: Ablation, variant: Variant) -> None:
    """One run has one tokenizer, the target's: a checkpoint with another would read nonsense."""
    from cllm_bench.engine.loading import load_tokenizer

    folder = ablation.folder(variant) / variant.recipe.role
    if not any(folder.glob("tokenizer*")):
        return
    own = load_tokenizer(Checkpoint(str(folder)))
    if own.get_vocab() != ablation.family.tokenizer.get_vocab():
        raise UserError(
            f"variant '{variant.label}' has another tokenizer than the target of "
            f"'{ablation.family.name}', so they cannot be measured together; vary a training that "
            "keeps the target's"
        )


def evaluate(
    ablation: Ablation, entries: Sequence[TrainedVariant], progress: Listen, console: Console
) -> ResultFolder:
    """Measure all variants that were trained, in one run, paired; return what it stored."""
    from cllm_bench.measurement.runner import Runner

    options = ablation.options
    variants = [entry.variant for entry in entries if entry.collapsed is None]
    threads = options.threads or ablation.family.description.threads
    trained = {
        variant.role: Checkpoint(str((ablation.folder(variant) / variant.recipe.role).resolve()))
        for variant in variants
    }
    family = ablation.family.unloaded(
        roles=trained,
        runtime=Runtime(options.device, threads=threads, products="auto").resolve(),
    )
    specs = ablation.specs(variants)
    plan = RunPlan(
        family, specs, ablation.tests, options.repeats, SEED, Sampling(), ablation.sandbox
    )
    runner = Runner(plan, Path(options.output) / "run", progress)
    warn(runner.folder, console)
    with runner.folder:
        runner.run()
    return runner.folder


def warn(folder: ResultFolder | AblationFolder, console: Console) -> None:
    """Show in what state a folder was found."""
    for warning in folder.warnings:
        console.print(f"note: {warning}", style="yellow", soft_wrap=True)
