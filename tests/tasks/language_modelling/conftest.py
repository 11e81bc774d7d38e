"""A folder with small texts in the layouts of both data sets."""

from __future__ import annotations

import pytest

from cllm_bench.contracts import Source

PROSE = "".join(
    f" word{i} and then more of it , " + "so on " * (i % 9) + ". \n \n" for i in range(60)
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wiki.test.raw").write_text(f" \n = A B = \n \n{PROSE}", encoding="utf-8")
    sentences = "".join(f" the <unk> rose N N in week {i} \n" for i in range(90))
    (tmp_path / "ptb.test.txt").write_text(sentences, encoding="utf-8")
    return Source("folder", tmp_path)
