"""WikiText-2 and the Penn Treebank as tasks: text, windows and passages."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from cllm_bench.contracts import Source, Task, TextTask
from cllm_bench.errors import UserError
from cllm_bench_tasks.language_modelling.ptb import PennTreebank
from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2

TASKS = {"wiki": Wikitext2, "news": PennTreebank}


@pytest.mark.parametrize("cls", TASKS.values())
def test_they_are_tasks(cls):
    task = cls()
    assert isinstance(task, Task)
    assert isinstance(task, TextTask)
    assert (cls.metric, cls.best_score, task.stop) == ("perplexity", 0.0, ())
    assert hash(cls()) == hash(cls())
    sample = task.samples(Source()).samples[0]
    assert task.score(sample, [sample.reference]) is None


def test_lines_are_joined_as_in_the_usual_protocol(folder):
    """Joined by blank lines, where blank rows are empty and the others keep their line's end."""
    found = Wikitext2().text(folder).content
    assert found.startswith(
        "\n\n = A B = \n\n\n\n\n word0 and then more of it , . \n\n\n\n\n word1 "
    )
    assert found.split() == (folder.path / "wiki.test.raw").read_text().split()
    found = PennTreebank().text(folder).content
    assert found.startswith("the <unk> rose N N in week 0 the <unk> rose N N in week 1 the")
    assert found.endswith("week 89")


def test_windows_and_notes(folder):
    scored = Wikitext2().text(folder)
    assert (scored.window, scored.stride, scored.remainder) == (2048, 2048, "drop")
    scored = Wikitext2(window=512, stride=128, remainder="score").text(folder)
    assert (scored.window, scored.stride, scored.remainder) == (512, 128, "score")
    assert Wikitext2().text(Source()).window == Wikitext2().text(Source()).stride == 256
    assert Wikitext2(window=64).text(Source()).window == 64
    found = PennTreebank().samples(folder)
    assert (found.label, found.template) == ("PTB test", "passage-v1")
    lines, limit = found.notes
    assert lines.startswith(
        "the text has 90 lines, and 810 words where the end of each line counts"
    )
    assert limit.startswith("--limit limits the passages that are continued, not the text")


def test_passages_are_stretches_of_the_text_at_regular_places(folder):
    for task in (Wikitext2(passages=5), PennTreebank(passages=5)):
        content = task.text(folder).content
        found = task.samples(folder).samples
        assert len({sample.id for sample in found}) == len(found) == 5
        places = [content.index(sample.prompt + sample.reference) for sample in found]
        gaps = [after - before for before, after in pairwise(places)]
        assert max(gaps) < 1.5 * min(gaps)
        for sample in found:
            assert len(sample.prompt.split()) == len(sample.reference.split()) == 64
            assert sample.reference[0].isspace()
            assert not sample.prompt[0].isspace()
            assert not sample.prompt.startswith("=")
    # Fewer places than wanted: every line that has a passage behind it, once.
    assert 20 < len(Wikitext2(passages=1000).samples(folder).samples) <= 60


def test_fingerprints_tell_passages_apart(folder):
    five, six = (Wikitext2(passages=n).samples(folder).fingerprint for n in (5, 6))
    assert five != six
    assert five == Wikitext2(passages=5).samples(folder).fingerprint
    assert re.fullmatch(r"[0-9a-f]{64}", five)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, "window is 1; give 2 to 1,000,000"),
        ({"stride": 0}, "stride is 0; give 1 to"),
        ({"passages": 0}, "passages is 0; give 1 to"),
        ({"max_new_tokens": -5}, "max_new_tokens is -5; give 1 to"),
        ({"train_passages": 10**9}, "train_passages is 1000000000; give 1 to"),
        ({"remainder": "keep"}, "remainder is keep; give drop or score"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(UserError, match=f"PTB: {message}"):
        PennTreebank(**settings)


def test_a_stride_must_leave_no_gaps():
    with pytest.raises(UserError, match="a stride of 257 leaves out tokens between windows of 256"):
        Wikitext2(stride=257).text(Source())


def test_usual_names_of_folders():
    assert "wikitext-2-raw" in Wikitext2.folders
    assert "wikitext-2" not in Wikitext2.folders  # the word-level version
    assert "ptb" in PennTreebank.folders
