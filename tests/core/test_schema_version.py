from pathlib import Path
from typing import Any

import pytest

from cllm_bench.core.schema_version import SCHEMA, refuse_newer
from cllm_bench.errors import UserError


@pytest.mark.parametrize("stored", [{}, {"schema": 1}, {"schema": SCHEMA}])
def test_this_version_and_earlier_ones_are_read(stored: dict[str, Any]) -> None:
    refuse_newer(stored, Path("manifest.json"))


def test_a_later_version_is_refused_with_both_versions_and_the_remedy() -> None:
    with pytest.raises(UserError) as caught:
        refuse_newer({"schema": SCHEMA + 3}, Path("run/manifest.json"))
    assert str(caught.value) == (
        f"'run/manifest.json' has schema version {SCHEMA + 3}, and this cllm-bench reads versions "
        f"up to {SCHEMA}; upgrade it: pip install --upgrade cllm-bench"
    )


@pytest.mark.parametrize("version", ["2", None, True, 2.0])
def test_what_is_no_version(version: Any) -> None:
    with pytest.raises(UserError, match=r"is damaged \('schema' is .*, not an integer\)"):
        refuse_newer({"schema": version}, Path("manifest.json"))
