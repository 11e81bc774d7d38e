"""The command `train`: progress while it runs, then where the checkpoint is."""

from __future__ import annotations

from rich.console import Console

from cllm_bench.api.options import TrainOptions
from cllm_bench.api.train import carry_out
from cllm_bench.cli.progress import LiveProgress
from cllm_bench.machine.processes import is_main


def train_command(options: TrainOptions) -> None:
    """Run a recipe.

    Raises:
        UserError: Something asked for does not exist or does not fit.
        TrainingCollapsed: The training went wrong and was stopped.
    """
    console = Console(stderr=True, quiet=not is_main())
    with LiveProgress(console) as progress:
        result = carry_out(options, progress, lambda text: console.print(text, soft_wrap=True))
    console.print(f"Saved to {result.folder}. Use it with --model {result.folder}.", soft_wrap=True)
