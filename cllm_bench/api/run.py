"""A run, from options to results: what `cllm_bench.run` and the command `run` both do."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench.contracts import JudgedTask, Listen, Sampling
from cllm_bench.core.registry import Registry
from cllm_bench.core.settings import parse_pairs, parse_selection
from cllm_bench.data.sources import task_sources
from cllm_bench.engine.family import DEFAULT, ModelFamily, find_family
from cllm_bench.engine.runtime import Attention, Engine, Runtime, choice
from cllm_bench.errors import UserError
from cllm_bench.measurement.method_specs import MethodSpec, plan_methods
from cllm_bench.measurement.plan import RunPlan, TaskPlan, plan_task

if TYPE_CHECKING:
    import pandas

    from cllm_bench.judge.grading import Material, Outcome
    from cllm_bench.judge.protocol import Judge
    from cllm_bench.results.manifest import Manifest
    from cllm_bench.results.summary import Summary
from cllm_bench.api.inputs import Tell, at_least_one, build_tasks, check_sandbox, required


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`, as given."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    model: str
    roles: tuple[str, ...]
    data: tuple[str, ...]
    limit: int | None
    repeats: int
    output: Path | None
    seed: int
    noise_floor: bool
    temperature: float
    top_p: float
    device: str
    dtype: str
    attention: str
    engine: str
    threads: int
    unsafe: bool
    plugins: tuple[Path, ...]
    judge: str | None = None
    judge_url: str | None = None


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


def run(
    methods: Sequence[str],
    tasks: Sequence[str],
    model: str = DEFAULT,
    *,
    roles: Mapping[str, str] | None = None,
    data: Sequence[str] = (),
    limit: int | None = None,
    repeats: int = 3,
    output: str | Path | None = None,
    seed: int = 0,
    noise_floor: bool = True,
    temperature: float = 0.0,
    top_p: float = 1.0,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    engine: str = "eager",
    threads: int = 0,
    judge: str | None = None,
    judge_url: str | None = None,
    allow_unsafe_code: bool = False,
    plugins: Sequence[str | Path] = (),
    progress: Listen | None = None,
) -> RunResult:
    """Measure methods on tasks, paired with the baseline; the same run as `cllm-bench run`.

    Nothing is printed. A folder that holds part of the same run is finished, not begun again.

    Args:
        methods: `NAME` or `NAME:key=value,…`, each a row of the table.
        tasks: `NAME` or `NAME:key=value,…`.
        model: A bundled family, a folder, or an id on the Hub.
        roles: Checkpoints by role: paths or Hub ids.
        data: `TASK=DIR`, or one DIR; `built-in` or `hub` in place of DIR.
        limit: Use only the first N questions of each task.
        repeats: How often every question is asked.
        output: Folder of the results; by default one in `./results`, named after the configuration.
        seed: Seed of order, sampled replies and statistics.
        noise_floor: Whether the baseline is measured twice (A/A).
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Nucleus of sampling.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16`, …
        attention: `sdpa`, `eager` or `plain`.
        engine: `eager`, `graph` or `compiled`.
        threads: CPU threads. 0 uses the family's recommended number, or one per core.
        judge: The model that grades conversations.
        judge_url: Its endpoint, where it is none of this machine's.
        allow_unsafe_code: Run what models write even where it cannot be isolated fully.
        plugins: Python files, or folders of them, with methods and tasks.
        progress: Called with what runs, how much is done and of how much; never while the clock
            runs.

    Returns:
        Summaries, folder and rows. A sample that failed is a row, not an exception.

    Raises:
        UserError: Something asked for does not exist or does not fit.
    """
    options = RunOptions(
        methods=tuple(methods),
        tasks=tuple(tasks),
        model=model,
        roles=tuple(f"{role}={where}" for role, where in (roles or {}).items()),
        data=tuple(data),
        limit=limit,
        repeats=repeats,
        output=None if output is None else Path(output),
        seed=seed,
        noise_floor=noise_floor,
        temperature=temperature,
        top_p=top_p,
        device=device,
        dtype=dtype,
        attention=attention,
        engine=engine,
        threads=threads,
        unsafe=allow_unsafe_code,
        plugins=tuple(map(Path, plugins)),
        judge=judge,
        judge_url=judge_url,
    )
    return PreparedRun(options).execute(progress or (lambda *_: None))


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
        self.output = options.output or _default_output(self._plan)

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
            summaries = runner.run()
            if captures.count:
                folder.write_text(
                    f"captures-{folder.attempt}.json", json.dumps(vars(captures)) + "\n"
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
            dict(vars(captures)),
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
    checkpoints = parse_pairs(options.roles, "--role")
    # Before torch is loaded, so that a wrong name is told at once.
    threads = options.threads or find_family(options.model, roles=checkpoints).threads
    engine = choice("engine", options.engine, Engine)
    runtime = Runtime(options.device, options.dtype, attention, engine, threads).resolve()
    family = find_family(options.model, roles=checkpoints, runtime=runtime)
    _check_roles(registry, family, specs, options)
    sources = task_sources(registry, list(tasks), options.data, built_in=family.built_in)
    plans = tuple(
        plan_task(name, task, sources[name], options.limit, sampling)
        for name, task in tasks.items()
    )
    sandbox = check_sandbox(list(tasks.values()), allowed=options.unsafe, tell=tell)
    return RunPlan(family, specs, plans, options.repeats, options.seed, sampling, sandbox)


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
