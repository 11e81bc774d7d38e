"""Runs the methods of a run: binds them to the weights, warms them up and times their replies."""

from __future__ import annotations

import gc
import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cllm_bench.contracts import Decoder, LibraryDecoder
from cllm_bench.decoding.loop import Generation, generate
from cllm_bench.engine.clock import Clock
from cllm_bench.errors import UserError
from cllm_bench.measurement.method_specs import MethodSpec
from cllm_bench.measurement.plan import RunPlan
from cllm_bench.measurement.prompts import Prompt
from cllm_bench.measurement.turn_orders import balanced_orders

WARM_UP_RUNS = 3  # to a median
WARM_UP_MEDIANS = 8  # at most
WARM_UP_AGREEMENT = 0.1  # relative
WARM_UP_TOKENS = 32
CAPTURE_TRIES = 5  # a method may run other shapes when asked again; few do
ROUNDS_TO_A_BINDING = 5
LEAD_TOKENS = 2  # the prompt's pass, and one behind it


class Answer(NamedTuple):
    """What one method made of one turn: a generation, or the reason why there is none."""

    generation: Generation | None
    error: str | None
    counters: Mapping[str, float] = {}
    peak_memory_bytes: int | None = None
    pass_shapes: Mapping[str, int] = {}


class Executor:
    """Runs the decoders of a run on one clock: those of one phase, which is all in most runs.

    Methods take turns, and a small model's first passes are slow where the method before it left
    other weights in the processor's caches: on `mini` by half a pass. In balanced orders all pay
    alike, but all pay: so each method begins every reply once before it is timed, as if it had the
    machine for itself.

    Where caches are to be flushed, that comes between the two: after the untimed beginning, which
    still makes libraries and clocks ready, and right before the clock starts. So every reply finds
    its weights in memory, whatever ran before it, the method's own beginning included: the prefill
    pays for fetching them, and decoding as long as it takes until they are in the caches again.

    What else may differ between equal methods for a whole run is where their sessions' memory lies.
    No number of questions averages that out, so all methods are bound anew every few rounds, each
    time in another order, and it becomes part of the noise that the intervals show. Captured graphs
    stay: to capture them anew takes too long.

    Args:
        plan: What to run.
        clock: Of the device.
        flush: Empties the caches before each timed reply; none leaves them as they are.

    Attributes:
        phase: The one whose methods are bound; at first the last one.

    Raises:
        UserError: A method does not fit the family.
    """

    def __init__(
        self, plan: RunPlan, clock: Clock, flush: Callable[[], None] | None = None
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._flush = flush or (lambda: None)
        self._warm: set[str] = set()
        self._rounds = 0
        self._bindings = 0
        self.phase = len(plan.phases) - 1
        self._decoders = self._bound()

    @property
    def _specs(self) -> tuple[MethodSpec, ...]:
        return self._plan.phases[self.phase]

    def enter(self, phase: int) -> None:
        """Bind the methods of another phase, after all weights of the one before are released.

        Raises:
            UserError: A method does not fit the family.
        """
        if phase == self.phase:
            return
        self.close()
        self.phase = phase
        self._warm.clear()
        self._rounds = 0
        self._decoders = self._bound()

    def close(self) -> None:
        """Let go of all that is bound and of all weights: nothing can be asked any more."""
        self._release()
        self._plan.family.release()

    def _bound(self) -> dict[str, Decoder | LibraryDecoder]:
        """Bind the methods of the phase, each time another one first.

        Memory just freed is taken again in order: bound in one order, every method would get back
        the places that it had.
        """
        specs = self._specs
        orders = balanced_orders(len(specs))
        order = [specs[place] for place in orders[self._bindings % len(orders)]]
        self._bindings += 1
        return {spec.label: spec.method.bind(self._plan.family) for spec in order}

    def extra_parameters(self) -> dict[str, int]:
        """Return by spec the parameters beyond those of its checkpoint."""
        return {
            label: int(getattr(decoder, "extra_parameters", 0))
            for label, decoder in self._decoders.items()
        }

    def is_warm(self, task: str) -> bool:
        """Tell whether a task's questions have been asked before."""
        return task in self._warm

    def prepare(self, task: str, longest: Prompt) -> bool:
        """Prepare for a round of a task: warm up, or bind anew where that is due.

        Args:
            task: Its label.
            longest: The longest of its questions.

        Returns:
            Whether they were bound anew: a pause, in which other things can be measured.
        """
        self._rounds += 1
        prompt = _begun(longest, WARM_UP_TOKENS)
        if task not in self._warm:
            self._warm.add(task)
            self._settle(prompt)
            return False
        if self._rounds <= ROUNDS_TO_A_BINDING or self._plan.family.captures.count:
            return False
        self._rounds = 1
        self._release()
        self._decoders = self._bound()
        for spec in self._specs:
            self.ask(spec, _begun(longest, LEAD_TOKENS))
        return True

    def _release(self) -> None:
        """Let go of what was bound, before it is bound anew: memory must never hold both."""
        held = [_watch(decoder) for decoder in self._decoders.values()]
        self._decoders.clear()
        self._plan.family.drop_parts()
        if any(decoder() is not None for decoder in held):
            gc.collect()  # it holds what holds it, and with it its weights; slow, and seldom needed

    def _settle(self, prompt: Prompt) -> None:
        """Run every method until two medians of its pace agree."""
        for spec in self._specs:
            previous = None
            for _ in range(WARM_UP_MEDIANS):
                paces = [self._pace(spec, prompt) for _ in range(WARM_UP_RUNS)]
                if None in paces:
                    break  # it fails on this prompt, and its row will say so
                median = statistics.median(pace for pace in paces if pace is not None)
                if previous and abs(median / previous - 1) <= WARM_UP_AGREEMENT:
                    break
                previous = median

    def _pace(self, spec: MethodSpec, prompt: Prompt) -> float | None:
        generation = self.ask(spec, prompt).generation
        if generation is None:
            return None
        seconds = generation.prefill_seconds + generation.decode_seconds
        return seconds / len(generation.token_ids)

    def ask(self, spec: MethodSpec, prompt: Prompt) -> Answer:
        """Let one method answer; once more where its time holds the capture of a graph."""
        for _ in range(CAPTURE_TRIES):
            answer, captured = self._ask_once(spec, prompt)
            if not captured:
                break
        return answer

    def _ask_once(self, spec: MethodSpec, prompt: Prompt) -> tuple[Answer, bool]:
        """Let one method begin to answer, and then answer, timed; no garbage is collected then.

        Returns:
            The answer, and whether its time holds the capture of a graph.
        """
        decoder, family = self._decoders[spec.label], self._plan.family
        reset_peak, read_peak = _peak_memory(family.runtime.devices)

        def answer(asked: Prompt) -> Generation:
            return generate(
                decoder,
                asked.prompt_ids,
                sampling=asked.sampling,
                max_new_tokens=asked.limit,
                stop_ids=family.stop_ids,
                clock=self._clock,
                ends=asked.ends,
            )

        gc.disable()
        try:
            answer(_begun(prompt, LEAD_TOKENS))
            family.take_passes()
            before = family.captures.count
            reset_peak()
            self._flush()
            generation = answer(prompt)
            counters: Mapping[str, float] = getattr(decoder, "counters", dict)()
        except UserError as error:
            return Answer(None, str(error)), False
        except Exception as error:  # a plugin may raise anything: that is a result, not a crash
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return Answer(None, text), False
        finally:
            gc.enable()
        found = Answer(generation, None, counters, read_peak(), family.take_passes())
        return found, family.captures.count > before


def _begun(prompt: Prompt, tokens: int) -> Prompt:
    """Return the same prompt, whose reply ends after some tokens.

    Its limit stays: a library sizes its cache by that, and must find it warm afterwards.
    """
    ends = prompt.ends
    return prompt._replace(
        ends=lambda reply: len(reply) >= tokens or (ends is not None and ends(reply))
    )


def _watch(thing: object) -> Callable[[], object]:
    """Return what tells whether a thing is still there; where that cannot be told, it is."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: True


def _peak_memory(
    devices: Sequence[str],
) -> tuple[Callable[[], None], Callable[[], int | None]]:
    """Return how to reset and to read the devices' peak memory; the CPU has no such counter."""
    if not devices[0].startswith("cuda"):
        return (lambda: None), (lambda: None)
    import torch

    def reset() -> None:
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)

    return reset, lambda: sum(int(torch.cuda.max_memory_allocated(each)) for each in devices)
