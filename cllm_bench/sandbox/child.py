"""The processes in which the sandbox runs programs that nobody has read.

    harness ── server ── supervisor ─┬─ judge: the tests, which come with the data set
                         (one a      └─ solver: the program, in namespaces of its own
                          program)

A program and its tests never share an interpreter. The tests call `candidate`, which sends the
arguments to the solver and returns what the solver answers, as plain values; nothing else comes out
of the solver. So a program passes by answering rightly and in no other way: it does not know the
tests, cannot reach the judge, and what it prints goes nowhere.

The server is started by `sandbox_process` with an empty environment. It forks, which costs a
program a few milliseconds and not an interpreter's start.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import math
import os
import random
import signal
import sys
import types
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple, NoReturn, TypedDict

from cllm_bench.sandbox import linux
from cllm_bench.sandbox.confine import Confinement, close_all_but
from cllm_bench.sandbox.limits import Limits
from cllm_bench.sandbox.values import pack, unpack

# Loaded before the server leaves the file system in which their shared libraries are, and because
# programs use them often.
_LOADED_AT_START = (
    *("array", "bisect", "bz2", "collections", "copy", "ctypes", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "lzma"),
    *("math", "operator", "random", "re", "socket", "sqlite3", "ssl", "statistics", "string"),
    *("traceback", "typing", "uuid", "zlib"),
)
_LARGEST_ANSWER = 16 << 20  # bytes
_LONGEST_DETAIL = 200


class Program(TypedDict):
    """A program to grade; the first message about it.

    Attributes:
        code: Defines the function.
        entry: The function's name.
        limits: Fields of `Limits`.
    """

    code: str
    entry: str
    limits: dict[str, Any]


class Tests(TypedDict):
    """What a program is judged by; the second message, which only the judge reads.

    Attributes:
        code: Defines `check(candidate)`, which raises where the function is wrong.
        context: Code that the tests may use, run before them.
    """

    code: str
    context: str


def main() -> NoReturn:
    """Serve until the harness goes away: argv holds a descriptor, a folder and a process id."""
    channel, folder = Connection(int(sys.argv[1])), sys.argv[2]
    if sys.platform == "linux":
        linux.die_with_parent()
        if os.getppid() != int(sys.argv[3]):
            os._exit(0)
    os.environ.clear()
    for name in _LOADED_AT_START:
        with contextlib.suppress(ImportError):  # Python can be built without some
            importlib.import_module(name)
    gc.freeze()
    confinement = Confinement(folder)
    confinement.enter()
    confinement.missing = _tried(confinement)
    _send(channel, {"missing": confinement.missing})
    while True:
        try:
            program = json.loads(channel.recv_bytes())
        except EOFError:
            os._exit(0)
        supervisor = _fork(_Supervisor(channel, program, confinement))
        if os.waitpid(supervisor, 0)[1]:
            os._exit(1)  # the harness starts another server


def _tried(confinement: Confinement) -> dict[str, str]:
    """Return what is missing from the walls of a program, having put them up once for nothing."""
    reader, writer = Pipe(duplex=False)

    def confine() -> None:
        confinement.confine(Limits(), 0, scratch=True)
        _send(writer, confinement.missing)

    def separate() -> None:
        confinement.separate()
        os.waitpid(_fork(confine), 0)

    os.waitpid(_fork(separate), 0)
    writer.close()
    with reader:
        found: dict[str, str] = json.loads(reader.recv_bytes())
    return found


class _Supervisor:
    """Runs a program before its judge, and sends the harness the verdict."""

    def __init__(self, channel: Connection, program: Program, confinement: Confinement) -> None:
        self._channel = channel
        self._program = program
        self._limits = Limits(**program["limits"])
        self._confinement = confinement
        self._known = set(confinement.missing)

    def __call__(self) -> None:
        if sys.platform == "linux":
            linux.die_with_parent()
        self._process_id = os.getpid()
        calls_out, calls_in = Pipe(duplex=False)
        answers_out, answers_in = Pipe(duplex=False)
        verdict_out, verdict_in = Pipe(duplex=False)
        # Not told by an exit code, which is the program's to choose.
        refused_out, self._refused_in = Pipe(duplex=False)

        def judge() -> None:
            tests = json.loads(self._channel.recv_bytes())  # read by nobody else, so known to none
            self._confine(False, calls_in, answers_out, verdict_in)
            _send(verdict_in, _Judge(calls_in, answers_out).verdict(self._program["entry"], tests))

        def solve() -> None:
            self._confine(True, calls_out, answers_in, alive_out)
            if alive_out.poll():
                os._exit(1)  # the supervisor has ended before it could take this process with it
            alive_out.close()
            _solve(self._program["code"], self._program["entry"], calls_out, answers_in)

        judging = _fork(judge)
        for end in (verdict_in, calls_in, answers_out):
            end.close()
        self._confinement.separate()
        self._refuse_less()
        alive_out, _alive_in = Pipe(duplex=False)  # no other process has the second end
        solving = _fork(solve)
        for end in (calls_out, answers_in):
            end.close()
        verdict = self._wait(verdict_out)
        works = _end(judging), _end(solving)
        if refused_out.poll():
            os._exit(1)
        seconds = math.ceil(self._limits.seconds)
        # On a busy machine the limit is reached a little before so much work is on record.
        late = any(work.cut or work.seconds > seconds - 0.1 for work in works)
        if verdict["reason"] != "passed" and late:
            verdict = {"reason": "timeout", "detail": f"{seconds} s of work"}
        _send(self._channel, verdict)

    def _confine(self, solves: bool, *kept: Connection) -> None:
        close_all_but({end.fileno() for end in (*kept, self._refused_in)})
        place = 2 * self._process_id + solves
        self._confinement.confine(self._limits, place, scratch=solves)
        self._refuse_less()
        self._refused_in.close()  # before anything runs that nobody has read
        random.seed(0)  # with the fixed hash seed it makes verdicts repeatable

    def _refuse_less(self) -> None:
        """Go on only behind all the walls that the harness was told of."""
        if set(self._confinement.missing) - self._known:
            self._refused_in.send_bytes(b"")
            os._exit(1)

    def _wait(self, verdict: Connection) -> dict[str, str]:
        seconds = self._limits.wall_seconds
        if not verdict.poll(seconds):
            return {"reason": "timeout", "detail": f"after {seconds:g} s"}
        try:
            found: dict[str, str] = json.loads(verdict.recv_bytes())
        except EOFError:
            return {"reason": "crash", "detail": "the judge ended"}
        return found


class _Work(NamedTuple):
    """What a process took.

    Attributes:
        seconds: Of processor time.
        cut: Whether it was ended for taking too many.
    """

    seconds: float
    cut: bool


def _end(process: int) -> _Work:
    """Kill a process and those that it started; return what it took."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):  # it leads no group yet
            kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    cut = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    return _Work(usage.ru_utime + usage.ru_stime, cut)


class _Judge:
    """Runs the tests. The program is at the other end of two pipes, and may send anything."""

    def __init__(self, calls: Connection, answers: Connection) -> None:
        self._calls = calls
        self._answers = answers
        self._ended = False

    def verdict(self, entry: str, tests: Tests) -> dict[str, str]:
        """Return `reason`, of which only `passed` is good, and `detail`."""
        names: dict[str, Any] = {"__name__": "tests"}
        try:
            self._answer()  # that the program has been read
            _execute(tests["context"], names)
            names[entry] = self._call
            _execute(tests["code"], names)
            names["check"](self._call)
        except AssertionError as error:
            reason, detail = "failed", str(error)
        except BaseException as error:
            reason, detail = "error", f"{type(error).__name__}: {error}"
        else:
            reason, detail = "passed", ""
        if self._ended:  # even where the tests took no offence at it
            reason, detail = "crash", "the program ended"
        return {"reason": reason, "detail": detail[:_LONGEST_DETAIL]}

    def _call(self, *arguments: object, **named: object) -> Any:
        message = pack([arguments, named])
        with contextlib.suppress(OSError):  # the answer will tell
            self._calls.send_bytes(message)
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, *content = unpack(self._answers.recv_bytes(_LARGEST_ANSWER))
        except (EOFError, OSError):
            self._ended = True
            raise
        if kind == "raised":
            raise _exception(*content)
        (value,) = content
        return value


def _solve(code: str, entry: str, calls: Connection, answers: Connection) -> None:
    """Run the program, then call its function as often as the judge asks."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # where dataclasses look for a class's module
    names = module.__dict__

    def load() -> None:
        _execute(code, names)
        if entry not in names:
            raise NameError(f"no function '{entry}'")

    def call(message: bytes) -> object:
        arguments, named = unpack(message)
        return names[entry](*arguments, **named)

    answers.send_bytes(_answer(load))
    while True:
        answers.send_bytes(_answer(partial(call, calls.recv_bytes())))


def _answer(compute: Callable[[], object]) -> bytes:
    try:
        return pack(["value", compute()])
    except BaseException as error:
        with contextlib.suppress(BaseException):
            return pack(["raised", type(error).__name__, str(error)[:_LONGEST_DETAIL]])
        return pack(["raised", "RuntimeError", "an exception that cannot be shown"])


def _exception(name: str, text: str) -> Exception:
    """Return an exception of the program as the tests see it."""
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
        with contextlib.suppress(TypeError):  # some take more than a text
            return kind(str(text))
    return RuntimeError(f"{name}: {text}")


def _execute(code: str, names: dict[str, Any]) -> None:
    # Without dont_inherit, this module's own future imports would hold for the code.
    exec(compile(code, "<solution>", "exec", dont_inherit=True), names)


def _fork(run: Callable[[], None]) -> int:
    """Run a function in a child; return its process id. The child never returns."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


def _send(channel: Connection, message: Mapping[str, Any]) -> None:
    channel.send_bytes(json.dumps(message).encode("ascii"))
