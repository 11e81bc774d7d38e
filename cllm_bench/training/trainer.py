"""The optimiser loop that recipes share, on Accelerate: seeded, logged, resumable, guarded."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel

from cllm_bench.contracts import Listen
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.machine.processes import is_main, join, on_main, rank, world_size
from cllm_bench.training.checkpoints import (
    CHECKPOINT,
    GOOD,
    LOG,
    collapse,
    drop_later,
    log_line,
    model_state,
    optimiser_state,
    read_state,
    refuse_collapsed,
    restore,
    trained_state,
    write_state,
)
from cllm_bench.training.compiling import compiled_parts, running
from cllm_bench.training.distributed import new_accelerator, place, split_parameters, twin_of
from cllm_bench.training.lora import add_adapters
from cllm_bench.training.objective import (
    Batches,
    Evaluate,
    Guard,
    Loss,
    LossSum,
    OptimiserSettings,
    schedule,
)

__all__ = [
    "CHECKPOINT",
    "GOOD",
    "LOG",
    "Batches",
    "Evaluate",
    "Guard",
    "Loss",
    "LossSum",
    "Optimiser",
    "OptimiserSettings",
    "TrainingCollapsed",
    "trained_state",
]

LOG_EVERY = 20  # steps
SAVING = 0.05  # at most this share of the time


class Optimiser:
    """Fits a model; stopped and called again on the same folder, it ends with the same weights.

    Launched as several processes, each computes its part of every step's micro-batches.

    Args:
        model: In float32; trained in place, on the device where it is.
        settings: How.
        folder: Gets `log.jsonl`, `checkpoint.pt`, the weights of the last evaluation that passed
            the guard (`good.pt`), and `collapsed.json` if one did not.
        listen: Told what runs, steps done and steps in all.
        rates: Factors on the learning rate of the model's children, by name; default 1.

    Raises:
        UserError: The settings do not fit the launch, the model or what is installed.
        TrainingCollapsed: The training in this folder did, earlier.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimiserSettings,
        folder: Path,
        listen: Listen,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self._device = next(model.parameters()).device
        _check(model, settings)
        join(self._device.type)
        on_main(lambda: refuse_collapsed(folder))
        set_seed(settings.seed)
        self._settings = settings
        self._folder = folder
        self._listen = listen
        self._step = 0
        self._evaluations: list[dict[str, float]] = []
        self._accelerator = new_accelerator(self._device.type == "cpu", settings.trackers, folder)
        self._adapters = None
        if settings.lora_rank:
            self._adapters = add_adapters(cast(PreTrainedModel, model), settings.lora_rank)
        if settings.gradient_checkpointing:
            _checkpoint_gradients(model)
        self._twin = twin_of(self._accelerator, model)
        parts = dict(model.named_children()) if rates else {"": model}
        groups = {
            name: split_parameters(part, settings.weight_decay) for name, part in parts.items()
        }
        self._factors = [(rates or {}).get(name, 1.0) for name in groups for _ in groups[name]]
        optimiser = torch.optim.AdamW(
            itertools.chain(*groups.values()),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._model, self._optimiser = place(self._accelerator, model, optimiser)
        if world_size() > 1:
            self._device = self._accelerator.device
        self._compiled = compiled_parts(model) if settings.compile else {}
        self._next_save = 0.0
        self._resume()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._device

    def fit(
        self,
        batches: Batches,
        loss: Loss,
        evaluate: Evaluate | None = None,
        every: int = 500,
        guard: Guard | None = None,
    ) -> None:
        """Run all steps that are left.

        Args:
            batches: Micro-batch by number; `accumulate` of them make a step.
            loss: Sum over a micro-batch. It is given the model as it is placed, and may only call
                it; torch's random numbers are seeded by the number of the micro-batch.
            evaluate: Figures to log before the first step, every so often, and at the end. Run in
                the main process alone, without gradients, on a plain model in evaluation mode.
            every: Steps between evaluations.
            guard: Judges each evaluation.

        Raises:
            TrainingCollapsed: The guard gave a reason to stop, or loss or gradient is no finite
                number; that gradient is not used.
        """
        settings = self._settings
        if settings.trackers:
            self._accelerator.init_trackers("cllm-bench", config=asdict(settings))
        if evaluate is not None and self._step == 0 and not self._evaluations:
            self._evaluated({}, evaluate, guard)
        self._model.train()
        self._next_save = time.monotonic() + settings.save_every
        while self._step < settings.steps:
            figures, save = self._one_step(batches, loss)
            self._step += 1
            ended = self._step == settings.steps
            if evaluate is not None and (ended or self._step % every == 0):
                self._evaluated(figures, evaluate, guard)
                self._model.train()
            elif ended or self._step % LOG_EVERY == 0:
                self._log(figures)
            self._tell(figures["loss"])
            if save and not ended:
                self.save()
        self.save()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def _one_step(self, batches: Batches, loss: Loss) -> tuple[dict[str, float], bool]:
        """Make a step; return its figures, and whether it is time to save."""
        settings = self._settings
        rate = settings.learning_rate * schedule(self._step, settings)
        for group, factor in zip(self._optimiser.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        sums = self._backward(batches, loss)
        save = sums.pop("save") > 0
        count = sums.pop("count")
        # Over nothing, the sums and their gradients are nothing too.
        share = 1 / count if count else 0.0
        figures = {name: value * share for name, value in sums.items()}
        # Both kinds of placement leave the mean over the processes of the gradients of their sums.
        norm = self._clipped(world_size() * share)
        figures |= {"learning_rate": rate, "gradient_norm": norm}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(figures[name]):
                self._optimiser.zero_grad()
                self._step += 1
                self._log(figures)
                self._collapse(f"{name} is {figures[name]}")
        self._optimiser.step()
        self._optimiser.zero_grad()
        return figures, save

    def _backward(self, batches: Batches, loss: Loss) -> dict[str, float]:
        """Leave gradients; return `loss`, its parts and `count`, summed over all processes."""
        settings = self._settings
        own = range(rank(), settings.accumulate, world_size())
        sums: dict[str, Any] = {"count": 0.0, "save": 0.0}
        for part in own:
            number = self._step * settings.accumulate + part
            batch = batches(number)
            # Dropout and the like depend on the micro-batch alone: not on the number of processes,
            # nor on what ran before, so there is no random state to store.
            torch.manual_seed((settings.seed << 32) + number)
            last = part == own[-1]
            together = nullcontext() if last else self._accelerator.no_sync(self._model)
            with together, running(self._compiled):
                with torch.autocast(
                    self._device.type, torch.bfloat16, enabled=settings.precision == "bf16"
                ):
                    value = loss(self._model, batch)
                torch.autograd.backward(value.total)
            sums["count"] += value.count
            for name, term in {**value.parts, "loss": value.total}.items():
                sums[name] = sums.get(name, 0.0) + term.detach().double()
        if is_main() and time.monotonic() >= self._next_save:
            sums["save"] = 1.0
        return self._reduced(sums)

    def _reduced(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Add up over the processes, in one message."""
        values = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64, device=self._device) for v in sums.values()]
        )
        if world_size() > 1:
            torch.distributed.all_reduce(values)
        return dict(zip(sums, values.tolist(), strict=True))

    def _clipped(self, scale: float) -> float:
        """Scale the gradients and clip them; return their norm before it."""
        parameters = list(self._model.parameters())
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        norm = self._accelerator.clip_grad_norm_(parameters, self._settings.clip)
        # Of a sharded model the norm is sharded as well.
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _evaluated(
        self, figures: Mapping[str, float], evaluate: Evaluate, guard: Guard | None
    ) -> None:
        """Evaluate, log and judge; keep what passes."""
        state = model_state(self._model)
        plain = self._plain(state)

        def judged() -> tuple[dict[str, float], str | None, bool]:
            with torch.no_grad():
                found = {name: float(value) for name, value in evaluate(plain).items()}
            found = {"step": self._step, **found}
            if guard is None:
                return found, None, True
            # A guard may wait for a second bad evaluation before it stops: weights are good if
            # the same once more would not stop them either.
            good = guard([*self._evaluations, found, found]) is None
            return found, guard([*self._evaluations, found]), good

        found, reason, good = on_main(judged)
        self._log({**figures, **found})
        if reason is not None:
            self._collapse(reason)
        self._evaluations.append(found)
        if is_main() and good:
            kept = {"step": self._step, "model": state, "adapters": self._adapters}
            write_state(self._folder / GOOD, kept)

    def _plain(self, state: dict[str, Tensor]) -> PreTrainedModel:
        """Return the model to evaluate; other processes than the main one make no use of it."""
        if self._twin is not None:
            return cast(PreTrainedModel, self._twin.filled(state, self._device))
        return cast(PreTrainedModel, self._accelerator.unwrap_model(self._model).eval())

    def _collapse(self, reason: str) -> NoReturn:
        def mark() -> None:
            file = self._folder / GOOD
            good = read_state(file)["step"] if file.exists() else None
            collapse(self._folder, reason, self._step, good)

        on_main(mark)
        on_main(lambda: refuse_collapsed(self._folder))
        raise AssertionError("a collapse is refused")

    def _log(self, figures: Mapping[str, float]) -> None:
        if is_main():
            log_line(self._folder, self._step, figures)
        if self._settings.trackers:
            self._accelerator.log(dict(figures), step=self._step)

    def _tell(self, loss: float) -> None:
        """Show the loss, and what the newest evaluation found."""
        if not is_main():
            return
        newest = self._evaluations[-1] if self._evaluations else {}
        found = [f"{name} {value:.4g}" for name, value in newest.items() if name != "step"]
        self._listen(", ".join([f"loss {loss:.4f}", *found]), self._step, self._settings.steps)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; every process must call it."""
        began = time.monotonic()
        state = {
            "step": self._step,
            "model": model_state(self._model),
            "adapters": self._adapters,
            "optimiser": optimiser_state(self._model, self._optimiser),
            "evaluations": self._evaluations,
        }
        on_main(lambda: write_state(self._folder / CHECKPOINT, state))
        now = time.monotonic()
        every = self._settings.save_every
        self._next_save = now + (max(every, (now - began) / SAVING) if every else 0.0)

    def _resume(self) -> None:
        file = self._folder / CHECKPOINT
        if not file.exists():
            on_main(lambda: (self._folder / LOG).unlink(missing_ok=True))
            return
        state = read_state(file)
        restore(self._model, self._optimiser, state)
        self._step = state["step"]
        self._evaluations = state["evaluations"]
        on_main(lambda: drop_later(self._folder, self._step))


def _check(model: nn.Module, settings: OptimiserSettings) -> None:
    if settings.accumulate % world_size():
        raise UserError(
            f"accumulate={settings.accumulate} micro-batches cannot be shared evenly by "
            f"{world_size()} processes; make it a multiple of {world_size()}"
        )
    kinds = {p.dtype for p in model.parameters() if p.requires_grad}
    if kinds != {torch.float32}:
        raise ValueError(f"weights to train must be float32, not {kinds}: small updates get lost")


def _checkpoint_gradients(model: nn.Module) -> None:
    # transformers renamed it in release 5.24.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((getattr(model, name) for name in names if hasattr(model, name)), None)
    try:
        if enable is None:
            raise ValueError("this is no model of transformers")
        enable({"use_reentrant": False})
    except ValueError:
        raise UserError(
            f"{type(model).__name__} has no gradient checkpointing; leave it off"
        ) from None
