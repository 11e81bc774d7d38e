"""llama.cpp's plain decoding beside this harness, on the same weights in the same run.

    pip install -e '.[engines]'
    python tests/benchmarks/llama_cpp.py --output FOLDER [--model mini] [--limit 40] [--repeats 3]

The target's weights are written as GGUF in float32 and served by llama.cpp in a process of its own
(PyPI `xllamacpp`). First it must give the same greedy replies as `ar`, but for numerical ties. Then
it takes turns with `ar`, `cllm` and `hf_generate` as methods of any run do. FOLDER is the folder of
that run, with two more files: `llama_cpp.md`, a table of speeds over llama.cpp's, and
`llama_cpp.json`, the same with its conditions.

This file is a plug-in as well: `cllm-bench run --plugin tests/benchmarks/llama_cpp.py --method
llama_cpp` (with `PYTHONPATH=tests/benchmarks`). There the whole reply counts as prefill, since
llama.cpp gives all of it at once; here it is divided by llama.cpp's own clock.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cllm_bench
from cllm_bench.contracts import Exactness, Sampling, Source, Step
from cllm_bench.decoding.exactness import verdict
from cllm_bench.decoding.loop import generate
from cllm_bench.decoding.stop_strings import ends_of
from cllm_bench.engine.clock import device_clock
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.family_file import describe_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench.machine.interference import count_as_own
from cllm_bench.report import numbers
from cllm_bench.report.statistics import median
from cllm_bench.report.summary import summarise
from cllm_bench.results.folder import ResultFolder
from cllm_bench.results.manifest import Manifest
from cllm_bench.results.rows import Row
from cllm_bench.results.summary import Summary

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("ar", "hf_generate", "cllm", "llama_cpp", "llama_cpp:cache=f32")
BASELINE = "llama_cpp"
TASKS = ("spider", "gsm8k", "humaneval")
PACKAGES = ("xllamacpp", "gguf")
MISMATCHES = 0.03  # the most, as a share of the replies: with more it is another model
SERVER = Path(__file__).with_name("llama_server.py")
# By libgomp's default, threads that wait for work spin for some 15 ms on an Intel before they
# sleep, and the program that comes next has a core less for that time. With this it is about 1
# ms, for both programs: still longer than any pause within a reply.
SPINS = {"GOMP_SPINCOUNT": "20000"}

Cache = Literal["f16", "f32"]


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp's plain greedy decoding of float32 weights, on the family's number of threads.

    Attributes:
        cache: Precision of keys and values. `f16` is llama.cpp's default and faster; `f32` is what
            the other methods of a run have.
        context: The most tokens of prompt and reply together.
        checkpoint: The role in the family that decodes.
    """

    own_weights: ClassVar[bool] = True

    cache: Cache = "f16"
    context: int = 4096
    checkpoint: str = "target"

    @property
    def exactness(self) -> Exactness:
        """What a float16 cache changes is more than a tie."""
        return "exact" if self.cache == "f32" else "lossy"

    def bind(self, family: ModelFamily) -> LlamaCppDecoder:
        """Write the weights as GGUF and have them served."""
        refuse_missing_packages()
        from llama_gguf import write_gguf

        runtime = family.runtime
        if (runtime.device, runtime.dtype) != ("cpu", "float32"):
            raise UserError(
                "llama_cpp decodes on the CPU in float32 here; use --device cpu --dtype float32"
            )
        stop_id = family.tokenizer.eos_token_id
        if stop_id not in family.stop_ids:
            raise UserError("llama_cpp needs a tokenizer whose end token ends a reply")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.gguf"
            write_gguf(file, family.plain_model(self.checkpoint), family.tokenizer, stop_id)
            return LlamaCppDecoder(LlamaServer(file, runtime.threads, self.context, self.cache))


class LlamaServer:
    """A running server; it ends when nobody holds this any more.

    It has a process of its own: both programs use libgomp, which counts the threads of all pools in
    a process and puts them to sleep at once where these outnumber the cores. Each would then be
    slower for the other's pool.

    Args:
        file: The model, read before this returns.
        threads: Of its pool.
        context: The most tokens of a sequence.
        cache: Precision of its keys and values.

    Attributes:
        facts: Versions, build and processor features, as it tells them.

    Raises:
        UserError: It does not start.
    """

    def __init__(self, file: Path, threads: int, context: int, cache: Cache) -> None:
        command = [sys.executable, str(SERVER), str(file), "--cache", cache]
        command += ["--threads", str(threads), "--context", str(context)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | SPINS,
        )
        self.close = weakref.finalize(self, _end, process)
        count_as_own(process.pid)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"llama.cpp's server did not start: {' '.join(command)}")
        self.facts: dict[str, Any] = json.loads(line)
        host, _, port = self.facts.pop("address").rpartition("/")[2].partition(":")
        self._place = (host, int(port))

    def complete(self, prompt_ids: Sequence[int], limit: int) -> dict[str, Any]:
        """Return the greedy reply to a prompt as llama.cpp describes it.

        Raises:
            RuntimeError: It refused, or used what it remembered of another prompt.
        """
        asked = {
            "prompt": prompt_ids,
            "n_predict": limit,
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": False,
            "return_tokens": True,
        }
        # One connection a reply: the server closes those that were silent for some seconds.
        connection = HTTPConnection(*self._place)
        try:
            connection.request("POST", "/completion", json.dumps(asked))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise RuntimeError(f"llama.cpp: {answer['error'].get('message')}")
        if answer["timings"]["cache_n"]:
            raise RuntimeError("llama.cpp reused keys and values of another prompt")
        return answer


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()  # what it waits for
    process.stdout.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class LlamaCppDecoder:
    """One server as a decoder: the whole reply is one step."""

    def __init__(self, server: LlamaServer) -> None:
        self.server = server
        self._timings: Mapping[str, float] = {}

    def answer(
        self,
        prompt_ids: Tensor,  # (P,)
        sampling: Sampling,
        *,
        max_new_tokens: int,
        stop_ids: Collection[int],
        settle: Callable[[Step], None],
    ) -> None:
        """Let the server decode."""
        reply = self.server.complete(prompt_ids.tolist(), max_new_tokens)
        self._timings = reply["timings"]
        settle(Step(tuple(reply["tokens"])))

    def counters(self) -> dict[str, float]:
        """Return llama.cpp's own times: to the first token, and from there to the last one."""
        return {name: self._timings[name] for name in ("prompt_ms", "predicted_ms", "predicted_n")}


def refuse_missing_packages() -> None:
    """Raise a `UserError` that names what to install."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"no package {' and '.join(missing)} here; pip install -e '.[engines]'")


@dataclass(frozen=True)
class Agreement:
    """How many greedy replies of llama.cpp are those of `ar`, on one task."""

    exact: int = 0
    tie: int = 0
    mismatch: int = 0

    @property
    def replies(self) -> int:
        return self.exact + self.tie + self.mismatch


def compare(family: ModelFamily, task: Any, limit: int) -> tuple[Agreement, Mapping[str, Any]]:
    """Compare the greedy replies to the first questions of a task, untimed.

    Returns:
        The agreement, and what the server says of itself.
    """
    from cllm_bench_methods.ar import Autoregressive

    decoders = (Autoregressive().bind(family), LlamaCpp(cache="f32").bind(family))
    clock, ends = device_clock(family.runtime.device), ends_of(task.stop, family.tokenizer)
    counts = Counter[str]()
    for sample in task.samples(Source()).samples[:limit]:
        prompt = family.tokenizer(sample.prompt, return_tensors="pt").input_ids[0]
        ours, theirs = (
            generate(
                decoder,
                prompt,
                sampling=Sampling(),
                max_new_tokens=task.max_new_tokens,
                stop_ids=family.stop_ids,
                clock=clock,
                ends=ends,
            ).token_ids
            for decoder in decoders
        )
        found = verdict(theirs, ours, prompt, Sampling(), lambda: family.session("target"))
        counts[found.kind] += 1
    return Agreement(**counts), decoders[1].server.facts


def refuse_other_model(options: argparse.Namespace) -> Mapping[str, Any]:
    """Show that llama.cpp runs the same model, and return what its server says of itself.

    Raises:
        UserError: Too many replies differ.
    """
    from cllm_bench.core.registry import Registry

    threads = options.threads or describe_family(options.model).threads
    family = find_family(
        options.model, runtime=Runtime("cpu", "float32", threads=threads).resolve()
    )
    facts: Mapping[str, Any] = {}
    for name in options.task:
        found, facts = compare(family, Registry().tasks.get(name)(), options.limit)
        told = f"{found.exact} of {found.replies} replies equal, {found.tie} part at a tie"
        print(f"{name}: {told}, {found.mismatch} differ", flush=True)
        if found.mismatch > MISMATCHES * found.replies:
            raise UserError(f"llama.cpp does not run the model that `ar` runs: {name}: {told}")
    return facts


def by_own_clock(row: Row) -> Row:
    """Return a row of llama.cpp divided by its own clock; any other row as it is.

    Decoding is the time from the first token to the last by llama.cpp's clock, and the prefill all
    the rest of the client's: the prompt, and the way to the server and back. Tokens behind a stop
    string, which llama.cpp does not know, are left out at the pace of the reply.
    """
    if not row.counters.get("predicted_n") or row.prefill_seconds is None:
        return row
    made, seconds = row.counters["predicted_n"], row.counters["predicted_ms"] / 1000
    steps = len(row.token_ids) - 1
    return dataclasses.replace(
        row,
        prefill_tokens=1,
        prefill_seconds=row.prefill_seconds + (row.decode_seconds or 0.0) - seconds,
        decode_seconds=seconds * steps / (made - 1) if steps else 0.0,
        accept_lengths=(1,) * steps,
        drafted=(0,) * steps,
    )


def transport(rows: Sequence[Row]) -> float | None:
    """Return the share of a reply's time that neither prompt nor decoding explains; the median."""
    shares = []
    for row in rows:
        whole, own = row.prefill_seconds, row.counters
        if whole and "prompt_ms" in own:
            shares.append(1 - (own["prompt_ms"] + own["predicted_ms"]) / 1000 / whole)
    return median(shares)


COLUMNS = ("method", "weights", "tok/s", "over llama.cpp", "end to end", "first token", "equal")
HOW_TO_READ = """\
`tok/s` and `over llama.cpp` are of the time from the first token of a reply to its last: llama.cpp
by its own clock, which leaves out its server, the others by the harness's. `end to end` is from the
prompt to the last token, and `first token` from the prompt to the first one, on the client's clock
for all. Ratios are geometric means over questions of medians over repeats, with 95% bootstrap
intervals. `equal` counts replies that are token for token those of `ar` on the same weights."""


def line(summary: Summary) -> str:
    """Return one row of a task's table."""
    verdicts, first = summary.verdicts, summary.first_token_ms
    equal = numbers.ABSENT
    if verdicts is not None:
        ties = f", {verdicts.tie} at a tie" if verdicts.tie else ""
        equal = f"{verdicts.exact} of {summary.samples}{ties}"
    cells = (
        summary.method,
        summary.checkpoint,
        numbers.significant(summary.tokens_per_second),
        numbers.ratio(summary.speedup, summary.speedup_ci),
        numbers.ratio(summary.speedup_end_to_end, summary.speedup_end_to_end_ci),
        numbers.ABSENT if first is None else f"{numbers.significant(first)} ms",
        equal,
    )
    return f"| {' | '.join(cells)} |"


def conditions(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    """Return what the figures depend on, as a list."""
    versions = {**manifest.versions, **facts["versions"]}
    shown = (*PACKAGES, "torch", "transformers", "cllm-bench")
    machine, runtime, build = manifest.machine, manifest.runtime, facts["build"]
    lines = (
        f"{manifest.model}, weights in {runtime.dtype}; llama.cpp's keys and values in float16, "
        "its default, unless the row says f32",
        f"threads: {runtime.threads}; greedy decoding, one sequence at a time",
        f"{machine.cpu}, {machine.cores} cores, load {numbers.plain(machine.load_average_1min)} "
        "before the run",
        ", ".join(f"{name} {versions[name]}" for name in shown),
        f"llama.cpp built by {build['compiler']} for {facts['kernels']}",
        f"{manifest.created}; " + " ".join(manifest.argv),
    )
    return "\n".join(f"- {each}" for each in lines)


def report(
    manifest: Manifest,
    rows: Sequence[Row],
    summaries: Sequence[Summary],
    facts: Mapping[str, Any],
) -> str:
    """Return the page of a run."""
    parts = ["# llama.cpp beside cllm-bench, on the same weights"]
    for task in manifest.tasks:
        own = [row for row in rows if (row.task, row.method) == (task.task, BASELINE)]
        head = [f"| {' | '.join(COLUMNS)} |", "|---|---|--:|--:|--:|--:|---|"]
        lines = [line(each) for each in summaries if each.task == task.task]
        parts += [
            f"## {task.task} ({task.source}, {task.samples} questions × {manifest.repeats})",
            "\n".join(head + lines),
            f"The way to llama.cpp's server and back is {numbers.share(transport(own))} of its "
            "time end to end.",
        ]
    return "\n\n".join((*parts, HOW_TO_READ, conditions(manifest, facts))) + "\n"


def measure(options: argparse.Namespace) -> None:
    """Compare, run, and write the page and its figures."""
    os.environ.update(SPINS)  # read when torch is loaded, which nothing has done yet
    facts = refuse_other_model(options)
    cllm_bench.run(
        METHODS,
        options.task,
        options.model,
        data=["built-in"],
        limit=options.limit,
        repeats=options.repeats,
        seed=options.seed,
        threads=options.threads,
        device="cpu",
        dtype="float32",
        noise_floor=False,
        output=options.output,
        plugins=[os.path.relpath(__file__)],
        progress=lambda what, done, of: print(f"\r{done}/{of} {what:40}", end="", file=sys.stderr),
    )
    folder = ResultFolder.read(options.output)
    against = dataclasses.replace(folder.manifest, baseline=BASELINE)
    summaries = summarise(
        against, [by_own_clock(row) for row in folder.rows], roundings=[*folder.roundings.values()]
    )
    text = report(folder.manifest, folder.rows, summaries, facts)
    result = {"engine": facts, "summaries": [summary.to_json() for summary in summaries]}
    (options.output / "llama_cpp.md").write_text(text, encoding="utf-8")
    (options.output / "llama_cpp.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"\n{text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--task", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=40, help="questions of each task")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    try:
        refuse_missing_packages()
        measure(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
