"""The recipe `cllm-paper`: the training of the paper's released checkpoints.

Source: Kou et al. 2024 (arXiv 2403.00835) and the settings of its published training script.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .recipe import CllmRecipe


@dataclass(frozen=True)
class PaperRecipe(CllmRecipe):
    """Train a CLLM as the original does, block by block; attributes as of `cllm`.

    Every update is one of four blocks of different answers, so that an epoch of 7,000 answers of
    Spider is about 6,450 updates. The consistency loss is a mean over rows that have something to
    learn, and the AR loss smooths its labels.
    """

    form: Literal["packed", "single"] = "single"
    answers: int = 4
    label_smoothing: float = 0.1
    normalise: Literal["answers", "rows"] = "rows"
