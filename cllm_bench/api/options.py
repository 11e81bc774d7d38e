"""The options of every command and Python call, each declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated

from cllm_bench.contracts import Listen
from cllm_bench.core.options import Option, Options, StrPath
from cllm_bench.engine.family_file import DEFAULT

Methods = Annotated[
    Sequence[str],
    Option("A method, NAME or NAME:key=value,…: a row of the table.", "--method"),
]
Tasks = Annotated[
    Sequence[str],
    Option("A task, NAME or NAME:key=value,…, or a comma-separated list.", "--task"),
]
Model = Annotated[str, Option("A bundled family, a folder, or a model id on the Hub.")]
Roles = Annotated[
    Mapping[str, str],
    Option("ROLE=PATH_OR_HUB_ID: the checkpoint that plays a role.", "--role"),
]
Data = Annotated[
    Sequence[str],
    Option(
        "TASK=DIR, or one DIR for all tasks: data sets in their official layout. "
        "In place of DIR, `built-in` selects the built-in sample and `hub` the public data set."
    ),
]
Limit = Annotated[int | None, Option("Use only the first N questions of each task.")]
Repeats = Annotated[int, Option("Number of times that each question is asked.")]
Output = Annotated[
    StrPath | None,
    Option("The folder of the results.", default="a folder in ./results, named after the options"),
]
Folders = Annotated[Sequence[StrPath], Option("Folders of stored runs.", positional=True)]
Verdicts = Annotated[
    str | None,
    Option("The judge whose verdicts to show, NAME or NAME@IDENTITY.", default="the latest"),
]
Seed = Annotated[int, Option("Random seed of order, sampled replies and statistics.")]
NoiseFloor = Annotated[
    bool,
    Option(
        "Measure the baseline twice (A/A), on up to 50 questions of each task, to show how far "
        "apart two equal methods come out."
    ),
]
FlushCaches = Annotated[
    bool,
    Option(
        "Empty the caches before each timed reply, so that every method begins with its weights in "
        "memory. Without it a reply begins as if the method had the machine for itself."
    ),
]
Temperature = Annotated[float, Option("Sampling temperature. 0 means greedy decoding.")]
TopP = Annotated[float, Option("Nucleus sampling: the probability mass to sample from.")]
Device = Annotated[str, Option("The device: auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, Option("The precision: auto, float32, bfloat16, …")]
Attention = Annotated[str, Option("The attention implementation: sdpa, eager or plain.")]
Engine = Annotated[
    str,
    Option(
        "How forward passes run: eager; graph, decoding as captured CUDA graphs; compiled, graphs "
        "of fused layers; or auto: eager on a CPU, else the fastest that passes a self-check."
    ),
]
Threads = Annotated[
    int, Option("CPU threads. 0 uses the family's recommended number, or one per core.")
]
Phases = Annotated[
    bool,
    Option(
        "Load one set of checkpoints at a time, for all questions, where they do not fit on the "
        "device together. Methods of different phases are not paired in time."
    ),
]
DeviceMapText = Annotated[
    str,
    Option(
        "How a model that is too large for one GPU is spread over all of them: none; auto; or "
        "balanced or sequential, as accelerate places layers.",
        "--device-map",
    ),
]
Products = Annotated[
    str,
    Option(
        "How models on a CPU multiply by their weights: auto, each shape and number of rows by the "
        "kernel that a short trial finds the fastest; or plain, as torch does."
    ),
]
AllowUnsafeCode = Annotated[
    bool, Option("Run code that models write even where this system cannot isolate it fully.")
]
Plugins = Annotated[
    Sequence[StrPath],
    Option("A Python file, or a folder of them, with plugins.", "--plugin"),
]
JudgeModel = Annotated[
    str | None,
    Option(
        "The model that grades conversations: a folder or a model id on the Hub, or with "
        "--judge-url the name of the model there."
    ),
]
JudgeUrl = Annotated[
    str | None,
    Option(
        "An endpoint that speaks OpenAI's chat completions, such as https://api.openai.com/v1. "
        "The key is read from CLLM_BENCH_JUDGE_KEY or OPENAI_API_KEY."
    ),
]
RecipeText = Annotated[
    str,
    Option("The training recipe, RECIPE or RECIPE:key=value,…, such as `target`.", positional=True),
]
Progress = Annotated[
    Listen | None,
    Option(
        "A callback that is given what runs, how much is done and of how much. It is never called "
        "while the clock runs.",
        python_only=True,
    ),
]


@dataclass(frozen=True)
class RunOptions(Options):
    """The options of `run`."""

    methods: Methods
    tasks: Tasks
    model: Model = DEFAULT
    _: KW_ONLY
    roles: Roles = field(default_factory=dict)
    data: Data = ()
    limit: Limit = None
    repeats: Repeats = 3
    output: Output = None
    seed: Seed = 0
    noise_floor: NoiseFloor = True
    flush_caches: FlushCaches = False
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    device: Device = "auto"
    dtype: Dtype = "auto"
    attention: Attention = "sdpa"
    engine: Engine = "auto"
    threads: Threads = 0
    device_map: DeviceMapText = "none"
    products: Products = "auto"
    phases: Phases = False
    judge: JudgeModel = None
    judge_url: JudgeUrl = None
    allow_unsafe_code: AllowUnsafeCode = False
    plugins: Plugins = ()
    progress: Progress = None


@dataclass(frozen=True)
class TrainOptions(Options):
    """The options of `train`."""

    recipe: RecipeText
    output: Annotated[StrPath, Option("The family folder to write.")]
    tasks: Tasks
    model: Model = DEFAULT
    _: KW_ONLY
    roles: Roles = field(default_factory=dict)
    data: Data = ()
    device: Device = "auto"
    threads: Threads = 0
    allow_unsafe_code: AllowUnsafeCode = False
    plugins: Plugins = ()
    progress: Progress = None


@dataclass(frozen=True)
class AblateOptions(Options):
    """The options of `ablate`."""

    recipe: RecipeText
    output: Annotated[StrPath, Option("The folder of trainings, run and table.")]
    tasks: Tasks
    _: KW_ONLY
    vary: Annotated[
        Sequence[str],
        Option(
            "KEY=VALUE|VALUE: the values of a setting, each a variant. A value may change other "
            "settings too, as in KEY=VALUE+OTHER=VALUE."
        ),
    ]
    grid: Annotated[
        bool, Option("Train every combination of the values, not one --vary at a time.")
    ] = False
    method: Annotated[
        str | None,
        Option(
            "The method that decodes, NAME or NAME:key=value,….",
            default="the method that is named like the recipe's role",
        ),
    ] = None
    model: Model = DEFAULT
    roles: Roles = field(default_factory=dict)
    data: Data = ()
    limit: Limit = None
    repeats: Repeats = 3
    device: Device = "auto"
    threads: Threads = 0
    allow_unsafe_code: AllowUnsafeCode = False
    plugins: Plugins = ()


@dataclass(frozen=True)
class JudgeOptions(Options):
    """The options of `judge`."""

    run: Annotated[StrPath, Option("The folder of a stored run.", positional=True)]
    judge: Annotated[
        str,
        Option(
            "The model that grades: a folder or a model id on the Hub, or with --judge-url the "
            "name of the model there."
        ),
    ]
    judge_url: JudgeUrl = None
    data: Data = ()
    parallel: Annotated[int, Option("Number of requests at once.")] = 4
    device: Device = "auto"
    threads: Threads = 0
    plugins: Plugins = ()


@dataclass(frozen=True)
class TableOptions(Options):
    """The options of `table`."""

    folders: Folders
    output: Annotated[StrPath | None, Option("A file to write the table to as well.")] = None
    table_format: Annotated[
        str,
        Option(
            "What the table is written in: markdown, csv (unrounded figures, a column for either "
            "end of an interval) or latex (booktabs).",
            "--format",
        ),
    ] = "markdown"
    judge: Verdicts = None


@dataclass(frozen=True)
class ReportOptions(Options):
    """The options of `report`."""

    folders: Folders
    output: Annotated[
        StrPath | None,
        Option("The HTML file.", default="report.html in the folder of the first run"),
    ] = None
    judge: Verdicts = None


@dataclass(frozen=True)
class PlotOptions(Options):
    """The options of `plot`."""

    folders: Folders
    output: Annotated[
        StrPath | None,
        Option("The folder of the pictures.", default="plots in the folder of the first run"),
    ] = None
    picture_format: Annotated[str, Option("What the pictures are: svg or png.", "--format")] = "svg"
    judge: Verdicts = None


@dataclass(frozen=True)
class CompareOptions(Options):
    """The options of `compare`."""

    a: Annotated[
        StrPath,
        Option("The folder of a stored run: what the other is held against.", positional=True),
    ]
    b: Annotated[StrPath, Option("The folder of another.", positional=True)]
    fail_if: Annotated[
        Sequence[str],
        Option(
            "Exit with code 1 where B is worse than a limit for any task and method: slower:3% or "
            "faster:3% of the decoding speed, or score:1 for points lost."
        ),
    ] = ()
    judge: Annotated[
        str | None,
        Option("The judge whose verdicts count, NAME or NAME@IDENTITY.", default="the latest"),
    ] = None
    json: Annotated[bool, Option("Print one JSON document instead of text.")] = False


@dataclass(frozen=True)
class ListOptions(Options):
    """The options of `list`."""

    plugins: Plugins = ()


@dataclass(frozen=True)
class ProfileOptions(Options):
    """The options of `profile`."""

    model: Model = DEFAULT
    checkpoint: Annotated[str, Option("The role whose weights are timed.")] = "target"
    roles: Roles = field(default_factory=dict)
    output: Output = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    attention: Attention = "sdpa"
    engine: Engine = "auto"
    threads: Threads = 0
    device_map: DeviceMapText = "none"
    products: Products = "auto"


@dataclass(frozen=True)
class ValidateOptions(Options):
    """The options of `validate`."""

    tasks: Tasks = ()
    data: Data = ()
    allow_unsafe_code: AllowUnsafeCode = False
    plugins: Plugins = ()


@dataclass(frozen=True)
class NewMethodOptions(Options):
    """The options of `new-method`."""

    name: Annotated[str, Option("The name of the method, such as my_idea.", positional=True)]
    output: Annotated[
        StrPath | None, Option("The file to write.", default="NAME.py in this folder")
    ] = None


@dataclass(frozen=True)
class CheckMethodOptions(Options):
    """The options of `check-method`."""

    method: Annotated[str, Option("The method, NAME or NAME:key=value,….", positional=True)]
    model: Annotated[
        str | None, Option("A family, as for `run`.", default="tiny random models")
    ] = None
    roles: Roles = field(default_factory=dict)
    plugins: Plugins = ()


@dataclass(frozen=True)
class CheckTaskOptions(Options):
    """The options of `check-task`."""

    task: Annotated[str, Option("The task, NAME or NAME:key=value,….", positional=True)]
    data: Annotated[
        StrPath | None, Option("The folder of its data.", default="the built-in sample")
    ] = None
    allow_unsafe_code: AllowUnsafeCode = False
    plugins: Plugins = ()


@dataclass(frozen=True)
class OverlapOptions(Options):
    """The options of `overlap`."""

    train: Annotated[
        str,
        Option(
            "The training questions: TASK, for its built-in sample; TASK=DIR, where DIR may be "
            "`hub`; or a JSON-lines file whose lines hold `prompt`, `question` or `turns`."
        ),
    ]
    test: Annotated[str, Option("The test questions, given in the same way.")]
    ngram: Annotated[int, Option("Number of words in an n-gram.")] = 5
    threshold: Annotated[
        float, Option("The share of a test question's n-grams that makes it a near-duplicate.")
    ] = 0.7
    output: Annotated[
        StrPath | None, Option("A file to write the report to as well: FILE.md or FILE.json.")
    ] = None
    plugins: Plugins = ()
