"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file, or a folder of them, with methods or tasks."),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="NAME[:key=value,…], or a comma list of them; repeatable."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="TASK=DIR (repeatable), or one DIR: the data in official layout; `built-in` or `hub` "
        "in place of DIR asks the built-in sample or the public data set.",
    ),
]
Model = Annotated[
    str, typer.Option("--model", help="A bundled family, a folder, or an id on the Hub.")
]
Role = Annotated[
    list[str] | None,
    typer.Option("--role", help="ROLE=PATH_OR_HUB_ID: a checkpoint for a role; repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, …")]
Attention = Annotated[str, typer.Option(help="sdpa, eager or plain.")]
Engine = Annotated[
    str,
    typer.Option(
        help="eager; graph: decode passes as captured CUDA graphs; compiled: as graphs of fused "
        "layers."
    ),
]
Threads = Annotated[
    int, typer.Option(help="CPU threads; 0 is what suits the model, else one a core.")
]
Limit = Annotated[int | None, typer.Option(help="Ask only the first so many questions.")]
Repeats = Annotated[int, typer.Option(help="Times each question is asked.")]
Seed = Annotated[int, typer.Option(help="Of order, replies drawn and statistics.")]
NoiseFloor = Annotated[
    bool,
    typer.Option(
        help="Measure the baseline twice (A/A), on up to 50 questions of a task, to show how far "
        "apart equal methods come out."
    ),
]
Checkpoint = Annotated[str, typer.Option(help="The role whose weights are timed.")]
Results = Annotated[
    Path | None,
    typer.Option("--output", help="Folder of the results; default: one in ./results."),
]
Temperature = Annotated[
    float, typer.Option(help="Of sampling; 0 decodes greedily.", metavar="<float>")
]
TopP = Annotated[
    float, typer.Option(help="Sample from the likeliest tokens that reach this probability.")
]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--allow-unsafe-code",
        help="Run what models write even where this system cannot isolate it fully.",
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="The model that grades conversations: a folder or an id on the Hub, or with "
        "--judge-url the name that it has there.",
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge-url",
        help="An endpoint that speaks OpenAI's chat completions, such as "
        "https://api.openai.com/v1; its key is read from CLLM_BENCH_JUDGE_KEY or OPENAI_API_KEY.",
    ),
]
RecipeText = Annotated[str, typer.Argument(help="RECIPE[:key=value,…], such as `target`.")]
TrainQuestions = Annotated[
    str,
    typer.Option(
        "--train",
        help="TASK, for its built-in sample; TASK=DIR, where DIR may be `hub`; or a JSON-lines "
        "file whose lines hold `prompt`, `question` or `turns`.",
    ),
]
TestQuestions = Annotated[str, typer.Option("--test", help="The same for the test questions.")]
Ngram = Annotated[int, typer.Option(help="Words to a run.")]
Threshold = Annotated[
    float, typer.Option(help="Share of a test question's runs that makes a near-duplicate.")
]
Report = Annotated[
    Path | None, typer.Option("--output", help="Write the report here too: FILE.md or FILE.json.")
]
