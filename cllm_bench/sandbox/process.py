"""The harness's end of the sandbox: starts the server, sends it programs, and ends it.

What happens inside is told in `sandbox_child`. This side adds a deadline that nothing inside can
talk its way out of.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cllm_bench.errors import UserError
from cllm_bench.sandbox.limits import Limits

if TYPE_CHECKING:
    from cllm_bench.sandbox.child import Program, Tests

_START_SECONDS = 60.0  # for a machine so busy that a process takes long to start
_GRACE_SECONDS = 10.0  # the supervisor keeps the time; this is for hearing of it
_SCRIPT = (
    "import sys; sys.path.append(sys.argv.pop()); from cllm_bench.sandbox.child import main; "
    "sys.path.pop(); main()"
)


class _Server(NamedTuple):
    process: subprocess.Popen[bytes]
    channel: Connection
    folder: str
    missing: Mapping[str, str]
    owner: int  # process id of the harness: a fork inherits the channel but must not use it


class SandboxProcess:
    """Runs programs one after another.

    The server starts with the first program, is replaced whenever it had to be killed, and ends
    with this object or with the interpreter. After a fork each side has its own. Not to be used by
    two threads at once.
    """

    def __init__(self) -> None:
        self._server: _Server | None = None
        self._finalizer: weakref.finalize[[_Server], SandboxProcess] | None = None

    @property
    def process_id(self) -> int | None:
        """The server's process id, while there is one."""
        return self._server.process.pid if self._server else None

    def missing(self) -> Mapping[str, str]:
        """Return the walls that could not be put up here, each with the reason."""
        return self._started().missing

    def close(self) -> None:
        """End the server and all that it started. Another program would start another."""
        if self._finalizer:
            self._finalizer()
        self._server = self._finalizer = None

    def grade(
        self, limits: Limits, program: str, entry: str, tests: str, context: str = ""
    ) -> Mapping[str, str]:
        """Return the verdict on a program, `reason` and `detail`, whatever the isolation.

        Raises:
            RuntimeError: The sandbox does not work here.
            UserError: This system has none.
        """
        first: Program = {"code": program, "entry": entry, "limits": asdict(limits)}
        second: Tests = {"code": tests, "context": context}
        messages = [json.dumps(message).encode("ascii") for message in (first, second)]
        for _ in range(2):  # somebody else may have killed the server
            try:
                return self._exchange(messages, limits.wall_seconds)
            except (EOFError, OSError):
                self.close()
            except BaseException:
                # An interrupted exchange leaves a verdict behind that the next program would take.
                self.close()
                raise
        raise RuntimeError("the sandbox died twice over the same program")

    def _exchange(self, messages: list[bytes], seconds: float) -> Mapping[str, str]:
        channel = self._started().channel
        for message in messages:
            channel.send_bytes(message)
        if not channel.poll(seconds + _GRACE_SECONDS):
            self.close()
            return {"reason": "timeout", "detail": "killed from outside"}
        verdict: Mapping[str, str] = json.loads(channel.recv_bytes())
        return verdict

    def _started(self) -> _Server:
        if self._server and self._server.owner != os.getpid():
            self.close()
        if self._server is None:
            self._server = _start()
            self._finalizer = weakref.finalize(self, _stop, self._server)
        return self._server


def _start() -> _Server:
    if os.name != "posix":
        raise UserError(
            f"no program can be confined on {sys.platform}; grade this task on Linux or macOS"
        )
    ours, theirs = Pipe()
    folder = os.path.realpath(tempfile.mkdtemp(prefix="cllm-bench-sandbox-"))
    # Not -I, which would ignore the hash seed. The package's own folder must not become a place
    # to import from: it has a statistics.py.
    command = [sys.executable, "-s", "-S", "-B", "-P", "-c", _SCRIPT, str(theirs.fileno()), folder]
    command += [str(os.getpid()), str(Path(str(files("cllm_bench"))).resolve().parent)]
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:  # some installations of Python do not start without
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            pass_fds=[theirs.fileno()],
            # Ctrl-C at the terminal is the harness's to handle, and a kill takes the whole group.
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        theirs.close()
    server = _Server(process, ours, folder, {}, os.getpid())
    try:
        if not ours.poll(_START_SECONDS):
            raise TimeoutError
        greeting: dict[str, Any] = json.loads(ours.recv_bytes())
    except BaseException as error:
        _stop(server)
        if isinstance(error, (EOFError, OSError)):
            # Were this a verdict, a broken machine would score every model 0.
            raise RuntimeError(
                f"the sandbox does not start; see what `{shlex.join(command)}` says"
            ) from error
        raise
    return server._replace(missing=greeting["missing"])


def _stop(server: _Server) -> None:
    server.channel.close()
    if server.owner != os.getpid():
        server.process.returncode = 0  # the parent's to wait for; keeps Popen from warning
        return
    # Until it has been waited for, the id cannot have passed to another process. The programs have
    # sessions of their own and die with their supervisor, which is of this group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    shutil.rmtree(server.folder, ignore_errors=True)
