"""Files of WikiText-2 and the Penn Treebank, and what a user is told."""

from __future__ import annotations

from importlib import import_module

import pytest

from cllm_bench.contracts import Source
from cllm_bench.errors import UserError
from cllm_bench_tasks.language_modelling import dataset as text_files
from cllm_bench_tasks.language_modelling.ptb import PennTreebank
from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2


def test_line_ends_and_separators_within_lines(tmp_path):
    lines = ["a\x85b\u2028c d\x0be", "", "f " * 140]
    (tmp_path / "wiki.test.raw").write_bytes("\r\n".join(lines).encode())
    rows = text_files.read_folder(Wikitext2.corpus, Source("folder", tmp_path))
    assert rows == ("a\x85b\u2028c d\x0be\n", "", "f " * 140)


@pytest.mark.parametrize(
    "place", ["wikitext-2-raw-v1/test-00000-of-00001.parquet", "test-0.parquet"]
)
def test_a_clone_of_the_hub_reads_the_same(folder, tmp_path, place):
    import pandas

    lines = (folder.path / "wiki.test.raw").read_text().splitlines(keepends=True)
    frame = pandas.DataFrame({"text": [line if line.strip() else "" for line in lines]})
    file = tmp_path / "clone" / place
    file.parent.mkdir(parents=True)
    frame.to_parquet(file)
    clone = Source("folder", tmp_path / "clone")
    assert Wikitext2().text(clone) == Wikitext2().text(folder)
    frame.rename(columns={"text": "sentence"}).to_parquet(file)
    with pytest.raises(UserError, match=r"parquet': .*must have a column 'text'"):
        Wikitext2().text(clone)


@pytest.mark.parametrize(
    ("cls", "calls"),
    [
        (Wikitext2, ("Salesforce/wikitext", "wikitext-2-raw-v1")),
        (PennTreebank, ("parquet",)),
    ],
)
def test_the_hub(cls, calls, monkeypatch):
    import datasets

    asked = []

    def load(*names, split, data_files=None):
        asked.append((names, split, data_files))
        return {cls.corpus.column: [f"{'so it goes ' * 60}{i}\n" for i in range(9)]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = Source("hub")
    assert len(cls().samples(source).samples) == 9
    assert cls().text(source).content.count("so it goes") == 540
    assert {(names, split) for names, split, _ in asked} == {(calls, "test")}
    for _, _, files in asked:
        assert files is None or files["test"].endswith("parquet/penn_treebank/test/0000.parquet")

    from huggingface_hub.utils import get_session

    http = import_module(type(get_session()).__module__.partition(".")[0])
    missing = datasets.exceptions.DatasetNotFoundError
    for failure in (ConnectionError, missing, http.ConnectError, http.ReadTimeout):

        def offline(*_, failure=failure, **__):
            raise failure("no route\nto host")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        told = f"cannot load '{cls.corpus.name}' from the Hub: no route to host; or give --data"
        with pytest.raises(UserError, match=told) as error:
            cls().samples(source)
        assert "\n" not in str(error.value)


def test_what_a_user_is_told(tmp_path):
    source = Source("folder", tmp_path)
    for cls, name in ((Wikitext2, "wiki.test.raw"), (PennTreebank, "ptb.test.txt")):
        with pytest.raises(UserError, match=f"is no folder of .*: it has no {name}; give --data"):
            cls().samples(source)
        (tmp_path / name).write_text(" \n\n")
        with pytest.raises(UserError, match=f"{name}' is empty: it must hold a text"):
            cls().text(source)
        (tmp_path / name).write_bytes(b"fine\nnot \xff fine\n")
        with pytest.raises(UserError, match=f"{name} line 2: no UTF-8"):
            cls().text(source)
        (tmp_path / name).write_text("too short a text\n")
        with pytest.raises(UserError, match="the text has 4 words, and a passage takes 128"):
            cls().samples(source)
        with pytest.raises(UserError, match=r"it has no .*train.*; give --data"):
            cls().samples(Source("folder", tmp_path, "train"))
        with pytest.raises(UserError, match=r"no folder '.*nowhere'; give --data"):
            cls().samples(Source("folder", tmp_path / "nowhere"))


def test_the_word_level_version_is_not_taken_for_the_raw_one(tmp_path):
    (tmp_path / "test.txt").write_text("a <unk>\n")
    with pytest.raises(UserError, match="holds the word-level version of WikiText-2, with <unk>"):
        Wikitext2().samples(Source("folder", tmp_path))


def test_real_wikitext(real_data):
    task, source = Wikitext2(), Source("folder", real_data / "wikitext-2-raw")
    content = task.text(source).content
    assert len(content.split()) == 241_211
    found = task.samples(source)
    assert found.notes[0].startswith("the text has 4,358 lines, and 245,569 words where the end")
    assert (found.label, len(found.samples)) == ("WikiText-2 raw test", 20)
    # The numbers of tokens that papers and guides with this protocol report.
    assert tokens(real_data, "gpt2", content) == 287_644
    assert tokens(real_data, "llama2", content) == 341_469


def tokens(real_data, name, content):
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(real_data / "tokenizers" / name)(content).input_ids)


def test_real_ptb(real_data):
    task, source = PennTreebank(), Source("folder", real_data / "ptb")
    content = task.text(source).content
    assert len(content.split()) == 82_430 - 3_761
    found = task.samples(source)
    assert found.notes[0].startswith("the text has 3,761 lines, and 82,430 words where the end")
    assert (found.label, len(found.samples)) == ("PTB test", 20)
    assert tokens(real_data, "llama2", content) // 2048 == 52
