"""A run, from options to results: what `cllm_bench.run` and the command `run` both do."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench.api.inputs import Tell, at_least_one, build_tasks, check_sandbox, required
from cllm_bench.api.options import RunOptions
from cllm_bench.contracts import JudgedTask, Listen, Sampling
from cllm_bench.core.options import takes, write_config
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.family_file import describe_family
from cllm_bench.engine.runtime import Attention, DeviceMap, Engine, Products, Runtime, choice
from cllm_bench.errors import UserError
from cllm_bench.measurement.method_specs import MethodSpec, plan_methods
from cllm_bench.measurement.plan import RunPlan, TaskPlan, plan_task

if TYPE_CHECKING:
    import pandas

    from cllm_bench.judge.grading import Material, Outcome
    from cllm_bench.judge.protocol import Judge
    from cllm_bench.results.manifest import Manifest
    from cllm_bench.results.summary import Summary

CONFIG = "config.toml"
_HEADING = (
    "# The resolved options of this run. `cllm-bench run --config FILE` is the same run;\n"
    "# with `--output FOLDER` it is repeated there.\n\n"
)


@dataclass(frozen=True)
class RunResult:
    """What a run measured.

    Attributes:
        folder: Where it is stored.
        summaries: One for each task and method, as in `summary.json`.
        manifest: The conditions, as in `manifest.json`.
        notes: What a reader should know about the state in which the folder was found.
        captures: Captured CUDA graphs: how many, and the seconds that they took.
        judge: The judge's name, where one was asked.
        judged: What came of its verdicts.
    """

    folder: Path
    summaries: list[Summary]
    manifest: Manifest
    notes: tuple[str, ...] = ()
    captures: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None
    judged: Outcome | None = None

    @property
    def failed(self) -> int:
        """Samples that failed."""
        return sum(summary.failed for summary in self.summaries)

    @property
    def rows(self) -> pandas.DataFrame:
        """All stored rows, one for each sample, method and repeat."""
        from cllm_bench.api.results import load_results

        return load_results(self.folder).rows

    @property
    def table(self) -> str:
        """The comparison table, as Markdown."""
        from cllm_bench.report.tables import comparison_table

        return comparison_table([(self.manifest, self.summaries)])


@takes(RunOptions)
def run(options: RunOptions) -> RunResult:
    """Measure methods on tasks, paired with the baseline; the same run as `cllm-bench run`.

    Nothing is printed. A folder that holds part of the same run is finished, not begun again.

    Args:
        options: See `RunOptions`.

    Returns:
        Summaries, folder and rows. A sample that failed is a row, not an exception.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """
    return PreparedRun(options).execute(options.progress or (lambda *_: None))


class PreparedRun:
    """A run that was checked and planned: everything that can be refused was refused.

    Args:
        options: What to run.
        tell: Called with what a user should know, such as how strong the sandbox is.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """

    def __init__(self, options: RunOptions, tell: Tell = lambda _: None) -> None:
        self._tell = tell
        self._plan = _plan(options, tell)
        self._judging = _judging(options, self._plan)
        self.output = Path(options.output or _default_output(self._plan))
        runtime = self._plan.family.runtime
        self._resolved = replace(
            options,
            output=self.output,
            device=runtime.device,
            dtype=runtime.dtype,
            threads=runtime.threads,
        )

    def execute(self, listen: Listen) -> RunResult:
        """Measure what is still missing, grade it, and write summary and table.

        Args:
            listen: Told before every round; never called while the clock runs.

        Raises:
            UserError: The folder is not this run's, or the judge refuses.
        """
        from cllm_bench.judge.grading import judge_folder
        from cllm_bench.measurement.runner import Runner

        runner = Runner(self._plan, self.output, listen)
        folder, captures, outcome = runner.folder, self._plan.family.captures, None
        for warning in folder.warnings:
            self._tell(f"note: {warning}")
        with folder:
            if not (folder.path / CONFIG).exists():
                folder.write_text(CONFIG, _HEADING + write_config(self._resolved))
            summaries = runner.run()
            if captures.count:
                folder.write_text(
                    f"captures-{folder.attempt}.json", json.dumps(captures.totals()) + "\n"
                )
            if self._judging is not None:
                try:
                    outcome, summaries = judge_folder(folder, *self._judging, listen)
                except UserError as error:
                    raise UserError(f"the run is stored in '{self.output}', but: {error}") from None
        return RunResult(
            self.output,
            summaries,
            folder.manifest,
            tuple(folder.warnings),
            captures.totals(),
            self._judging.judge if self._judging else None,
            outcome,
        )


def _plan(options: RunOptions, tell: Tell) -> RunPlan:
    registry = Registry(options.plugins)
    at_least_one(options.repeats, "--repeats")
    at_least_one(options.limit, "--limit")
    methods = [
        parse_selection(text)
        for text in required(options.methods, "--method", registry.methods.names())
    ]
    sampling = _sampling(options)
    specs = plan_methods(registry, methods, sampling, again=options.noise_floor)
    tasks = build_tasks(registry, options.tasks)
    attention = choice("attention", options.attention, Attention)
    # Before torch is loaded, so that a wrong name is told at once.
    threads = options.threads or describe_family(options.model, options.roles).threads
    engine = choice("engine", options.engine, Engine)
    device_map = choice("device-map", options.device_map, DeviceMap)
    products = choice("products", options.products, Products)
    runtime = Runtime(
        options.device, options.dtype, attention, engine, threads, device_map, products
    ).resolve()
    family = find_family(options.model, roles=options.roles, runtime=runtime)
    _check_roles(registry, family, specs, options)
    sources = task_sources(
        registry, list(tasks), options.data, built_in=family.description.built_in
    )
    plans = tuple(
        plan_task(name, task, sources[name], options.limit, sampling)
        for name, task in tasks.items()
    )
    sandbox = check_sandbox(list(tasks.values()), allowed=options.allow_unsafe_code, tell=tell)
    return RunPlan(
        family,
        specs,
        plans,
        options.repeats,
        options.seed,
        sampling,
        sandbox,
        phased=options.phases,
        flush_caches=options.flush_caches,
    )


class _Judging(NamedTuple):
    """Who judges a run, and what."""

    judge: Judge
    material: Mapping[str, Material]


def _judging(options: RunOptions, plan: RunPlan) -> _Judging | None:
    """Find the judge that the options name, before anything is measured.

    Raises:
        UserError: There is no such judge, or nothing to judge.
    """
    if options.judge is None:
        if options.judge_url is not None:
            raise UserError("--judge-url is given without --judge, the name of the model there")
        return None
    from cllm_bench.judge.choice import find_judge

    material = _material_of(plan.tasks)
    registry, runtime = Registry(options.plugins), plan.family.runtime
    return _Judging(find_judge(options.judge, options.judge_url, registry, runtime), material)


def _material_of(plans: Sequence[TaskPlan]) -> dict[str, Material]:
    """Return what a judge needs of the tasks of a run that have one.

    Raises:
        UserError: None has.
    """
    from cllm_bench.judge.grading import Material

    found = {
        plan.label: Material(plan.task, {sample.id: sample for sample in plan.found.samples})
        for plan in plans
        if isinstance(plan.task, JudgedTask)
    }
    if not found:
        names = ", ".join(plan.label for plan in plans)
        raise UserError(f"--judge: no task of this run is graded by a judge ({names})")
    return found


def _sampling(options: RunOptions) -> Sampling:
    if not 0 <= options.temperature < math.inf:
        raise UserError(f"--temperature must be 0 (greedy) or above, not {options.temperature}")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top-p must be above 0 and at most 1, not {options.top_p}")
    if options.top_p < 1 and options.temperature == 0:
        raise UserError(f"--top-p {options.top_p} needs a --temperature above 0")
    return Sampling(options.temperature, options.top_p)


def _check_roles(
    registry: Registry, family: ModelFamily, specs: Sequence[MethodSpec], options: RunOptions
) -> None:
    """Refuse a method whose checkpoint the family lacks, and say how to train it if a recipe can.

    Raises:
        UserError: A role is missing.
    """
    for role in dict.fromkeys(role for spec in specs for role in spec.roles):
        try:
            family.checkpoint(role)
        except UserError:
            entries = registry.recipes.entries()
            recipes = [entry.name for entry in entries if getattr(entry.cls, "role", None) == role]
            if not recipes:
                raise
            asked = ["--model", options.model, "--task", ",".join(options.tasks)]
            raise UserError(
                f"family '{family.name}' has no '{role}' checkpoint; train one: "
                f"`cllm-bench train {recipes[0]} {shlex.join(asked)} --output DIR`, "
                f"or name one with --role {role}=PATH_OR_HUB_ID"
            ) from None


def _default_output(plan: RunPlan) -> Path:
    """Return a folder named after the configuration, so that the same command finds it again."""
    text = json.dumps(plan.configuration(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    tasks = "-".join(plan.task.__class__.__name__.lower() for plan in plan.tasks)
    model = plan.family.name.replace("/", "--")
    return Path("results") / f"{model}-{tasks}-{digest}"
