"""The optimiser loop that recipes share, on Accelerate: seeded, logged, resumable."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from cllm_bench.contracts import Listen
from cllm_bench.files import append

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW with warm-up and cosine decay to a tenth.

    Attributes:
        steps: Optimiser steps in all.
        learning_rate: At its peak.
        warm_up: Share of the steps over which the rate rises.
        weight_decay: On matrices only.
        clip: Largest norm of the gradient.
        accumulate: Batches to a step.
        precision: Of the arithmetic; weights and optimiser state stay in float32.
        seed: Of everything random.
        save_every: Seconds between checkpoints.
    """

    steps: int
    learning_rate: float
    warm_up: float = 0.03
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    save_every: float = 60.0


Batches = Callable[[int], Any]  # number of a batch -> batch; the same whenever it is asked for
Loss = Callable[[nn.Module, Any], Tensor]  # mean over the batch
Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Optimiser:
    """Fits a model; stopped and called again on the same folder, it ends with the same weights.

    Args:
        model: Trained in place, on the device where it is.
        settings: How.
        folder: Gets `log.jsonl` and, while it runs, `checkpoint.pt`.
        listen: Told what runs, steps done and steps in all.
    """

    def __init__(
        self, model: nn.Module, settings: OptimiserSettings, folder: Path, listen: Listen
    ) -> None:
        set_seed(settings.seed)
        self._settings = settings
        self._folder = folder
        self._listen = listen
        on_cpu = next(model.parameters()).device.type == "cpu"
        self._accelerator = Accelerator(mixed_precision=settings.precision, cpu=on_cpu)
        optimiser = torch.optim.AdamW(
            _groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98)
        )
        self._model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._step = 0
        self._resume()

    def fit(
        self, batches: Batches, loss: Loss, evaluate: Evaluate | None = None, every: int = 500
    ) -> None:
        """Run all steps that are left.

        Args:
            batches: Batch by number; `accumulate` of them make a step.
            loss: Mean loss of a batch.
            evaluate: Figures to log every so often, from the model in evaluation mode.
            every: Steps between evaluations.
        """
        settings = self._settings
        saved = time.monotonic()
        while self._step < settings.steps:
            figures = self._one_step(batches, loss)
            self._step += 1
            due = self._step % every == 0 or self._step == settings.steps
            if due and evaluate is not None:
                figures |= self._evaluated(evaluate)
            if due or self._step % LOG_EVERY == 0:
                self._log(figures)
            self._listen(f"loss {figures['loss']:.4f}", self._step, settings.steps)
            if time.monotonic() - saved >= settings.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def _one_step(self, batches: Batches, loss: Loss) -> dict[str, float]:
        settings = self._settings
        rate = settings.learning_rate * _schedule(self._step, settings)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        total = 0.0
        self._model.train()
        for part in range(settings.accumulate):
            with self._accelerator.autocast():
                value = loss(self._model, batches(self._step * settings.accumulate + part))
            self._accelerator.backward(value / settings.accumulate)
            total += value.item() / settings.accumulate
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), settings.clip)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return {"loss": total, "learning_rate": rate, "gradient_norm": float(norm)}

    def _evaluated(self, evaluate: Evaluate) -> Mapping[str, float]:
        self._model.eval()
        with torch.inference_mode():
            return evaluate(self._accelerator.unwrap_model(self._model))

    def _log(self, figures: Mapping[str, float]) -> None:
        line = {"step": self._step, **figures, "time": round(time.time(), 1)}
        append(self._folder / LOG, f"{json.dumps(line)}\n".encode())

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "step": self._step,
            "model": self._accelerator.unwrap_model(self._model).state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "random": torch.get_rng_state(),
        }
        temporary = self._folder / f"{CHECKPOINT}.writing"
        torch.save(state, temporary)
        os.replace(temporary, self._folder / CHECKPOINT)

    def _resume(self) -> None:
        file = self._folder / CHECKPOINT
        if not file.exists():
            (self._folder / LOG).unlink(missing_ok=True)
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        self._accelerator.unwrap_model(self._model).load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        self._step = state["step"]
        _drop_later(self._folder / LOG, self._step)


def _drop_later(log: Path, step: int) -> None:
    """Forget logged steps that will be run again, so that each is logged once."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    log.write_text("".join(kept), encoding="utf-8")


def _schedule(step: int, settings: OptimiserSettings) -> float:
    warm = max(1, round(settings.warm_up * settings.steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
