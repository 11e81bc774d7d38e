"""Measure what a way of decoding really gains, and what it costs in quality.

What a plug-in's author or a script needs is here, in `contracts`, `errors` and `testing`; all else
may change. Names are imported when they are used, so that `import cllm_bench` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cllm_bench.api.results import compare as compare
    from cllm_bench.api.results import load_results as load_results
    from cllm_bench.api.results import report as report
    from cllm_bench.api.results import table as table
    from cllm_bench.api.run import run as run
    from cllm_bench.api.train import train as train
    from cllm_bench.contracts import AnswerBlock as AnswerBlock
    from cllm_bench.contracts import BlockStates as BlockStates
    from cllm_bench.contracts import ChatTask as ChatTask
    from cllm_bench.contracts import Decoder as Decoder
    from cllm_bench.contracts import Exactness as Exactness
    from cllm_bench.contracts import JudgedTask as JudgedTask
    from cllm_bench.contracts import JudgePrompt as JudgePrompt
    from cllm_bench.contracts import LibraryDecoder as LibraryDecoder
    from cllm_bench.contracts import Method as Method
    from cllm_bench.contracts import Objective as Objective
    from cllm_bench.contracts import Recipe as Recipe
    from cllm_bench.contracts import Sample as Sample
    from cllm_bench.contracts import SampleSet as SampleSet
    from cllm_bench.contracts import Sampling as Sampling
    from cllm_bench.contracts import ScoredText as ScoredText
    from cllm_bench.contracts import Source as Source
    from cllm_bench.contracts import Stage as Stage
    from cllm_bench.contracts import StateBatch as StateBatch
    from cllm_bench.contracts import StatePair as StatePair
    from cllm_bench.contracts import Step as Step
    from cllm_bench.contracts import Task as Task
    from cllm_bench.contracts import TextTask as TextTask
    from cllm_bench.contracts import TrainingJob as TrainingJob
    from cllm_bench.decoding.sampling import Chooser as Chooser
    from cllm_bench.engine.family import ModelFamily as ModelFamily
    from cllm_bench.engine.session import Session as Session
    from cllm_bench.errors import UserError as UserError

_CONTRACTS = (
    *("AnswerBlock", "BlockStates", "ChatTask", "Decoder", "Exactness", "JudgePrompt"),
    *("JudgedTask", "LibraryDecoder", "Method", "Objective", "Recipe", "Sample", "SampleSet"),
    *("Sampling", "ScoredText", "Source", "Stage", "StateBatch", "StatePair", "Step", "Task"),
    *("TextTask", "TrainingJob"),
)
_HOME = {
    **dict.fromkeys(_CONTRACTS, "contracts"),
    "Chooser": "decoding.sampling",
    "ModelFamily": "engine.family",
    "Session": "engine.session",
    "UserError": "errors",
    "compare": "api.results",
    "load_results": "api.results",
    "report": "api.results",
    "run": "api.run",
    "table": "api.results",
    "train": "api.train",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cllm_bench' has no attribute '{name}'")
    value = getattr(import_module(f"cllm_bench.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
