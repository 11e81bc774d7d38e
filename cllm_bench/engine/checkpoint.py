"""Where weights are: a folder in Hugging Face's layout, or an id on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cllm_bench.errors import UserError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the weights of a role are: a folder, or an id on the Hub with an optional revision."""

    location: str
    revision: str | None = None

    @property
    def local(self) -> bool:
        """Whether it is a folder on this machine."""
        return Path(self.location).is_dir()


def find_checkpoint(text: str, root: Path, context: str) -> Checkpoint:
    """Resolve a path, relative to `root`, or an id on the Hub.

    Args:
        text: What the user wrote.
        root: Where relative paths begin.
        context: Names the place of the text in errors.

    Raises:
        UserError: It is neither.
    """
    folder = root / Path(text).expanduser()
    if folder.is_dir():
        return Checkpoint(str(folder.resolve()))
    if not looks_like_hub_id(text):
        raise UserError(f"{context}: no folder '{folder}'; a Hub id has the form OWNER/NAME")
    return hub_checkpoint(text)


def hub_checkpoint(text: str) -> Checkpoint:
    """Parse `OWNER/NAME` or `OWNER/NAME@REVISION`."""
    location, _, revision = text.partition("@")
    return Checkpoint(location, revision or None)


def looks_like_hub_id(text: str) -> bool:
    """Tell whether a text has the form of an id on the Hub."""
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")
