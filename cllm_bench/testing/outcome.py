"""Failed and skipped checks, shared by the suites for methods and for tasks."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Literal, NamedTuple

_LIBRARIES = {"cllm_bench", "torch", "transformers"}  # folders whose frames tell an author less


class CheckResult(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: Its name.
        status: `skipped` where the check does not apply, or could not be made.
        message: What is wrong and where to look; why it was skipped; a note on what passed.
    """

    check: str
    status: Literal["passed", "failed", "skipped"]
    message: str = ""


class Failed(Exception):  # noqa: N818 - an outcome of a check
    """The contract is broken: what is wrong, and where to look."""


class Skipped(Exception):  # noqa: N818 - an outcome of a check
    """The check does not apply, and why."""


def raised(error: Exception) -> str:
    """Return what an author's code raised, and where in its own files."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _LIBRARIES & set(Path(frame.filename).parts)]
    place = (own or list(frames))[-1]
    return f"raised {text} ({Path(place.filename).name}, line {place.lineno}, in {place.name})"
