"""The schema version of everything that cllm-bench stores; docs/file-formats.md has its history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cllm_bench.errors import UserError

# Raised when an older reader would misread what is stored. A new key that older readers may ignore,
# and that newer ones have a default for, does not raise it.
SCHEMA = 2
UNNUMBERED = 1  # of files that were stored before they had a version


def refuse_newer(stored: Mapping[str, Any], file: Path) -> None:
    """Refuse a file that a later version of cllm-bench has written.

    Args:
        stored: The JSON object that holds the version.
        file: Where it is stored.

    Raises:
        UserError: The version is newer than this one, or no version at all.
    """
    found = stored.get("schema", UNNUMBERED)
    if not isinstance(found, int) or isinstance(found, bool):
        raise UserError(f"'{file}' is damaged ('schema' is {found!r:.60}, not an integer)")
    if found > SCHEMA:
        raise UserError(
            f"'{file}' has schema version {found}, and this cllm-bench reads versions up to "
            f"{SCHEMA}; upgrade it: pip install --upgrade cllm-bench"
        )
