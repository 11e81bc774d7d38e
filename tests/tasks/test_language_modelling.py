"""WikiText-2 and the Penn Treebank as tasks: sources, passages, and the built-in texts."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from importlib import import_module
from itertools import chain, pairwise

import pytest
from families import cli

from cllm_bench.contracts import Source, Task, TextTask
from cllm_bench.data.overlap import Question, find_overlap
from cllm_bench.errors import UserError
from cllm_bench_tasks.language_modelling import dataset as text_files
from cllm_bench_tasks.language_modelling.builtin.grammar import split_of
from cllm_bench_tasks.language_modelling.builtin.news import NEWS
from cllm_bench_tasks.language_modelling.builtin.pools import POOLS
from cllm_bench_tasks.language_modelling.builtin.sample import (
    TEST_ARTICLES,
    articles,
    passages,
    text,
)
from cllm_bench_tasks.language_modelling.builtin.wiki import WIKI
from cllm_bench_tasks.language_modelling.ptb import PennTreebank
from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2

TASKS = {"wiki": Wikitext2, "news": PennTreebank}
TRAIN = 3000

# A model is trained on these texts: a change of them means that it must be trained anew.
DIGESTS = {
    ("wiki", "test"): "72a328d05c0dc3a5711379cbc62a9206e733115dd83908094c165603786a54a1",
    ("wiki", "train"): "80cf5105cbf3ac0a0425c36ef17f8b6fd8d0c1896fbce89a6c239d84cd20080c",
    ("news", "test"): "462e0b96b4d2c4509831221c0d833833234a12853d37fcfdf85a899cc3b7f41d",
    ("news", "train"): "1cc5a0f839118bc4a20c8624a832e7ad40cdb8ccd819753b178a1c6d17bafb3d",
}
PROSE = "".join(
    f" word{i} and then more of it , " + "so on " * (i % 9) + ". \n \n" for i in range(60)
)


def digest(found):
    told = [(each.id, each.prompt, each.reference) for each in found]
    return hashlib.sha256(repr(told).encode()).hexdigest()


@pytest.fixture(scope="module")
def built():
    return {
        (manner, split): passages(manner, split, count)
        for manner in TASKS
        for split, count in (("test", TEST_ARTICLES), ("train", TRAIN))
    }


@pytest.mark.parametrize("cls", TASKS.values())
def test_they_are_tasks(cls):
    task = cls()
    assert isinstance(task, Task)
    assert isinstance(task, TextTask)
    assert (cls.metric, cls.best_score, task.stop) == ("perplexity", 0.0, ())
    assert hash(cls()) == hash(cls())
    sample = task.samples(Source()).samples[0]
    assert task.score(sample, [sample.reference]) is None


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wiki.test.raw").write_text(f" \n = A B = \n \n{PROSE}", encoding="utf-8")
    sentences = "".join(f" the <unk> rose N N in week {i} \n" for i in range(90))
    (tmp_path / "ptb.test.txt").write_text(sentences, encoding="utf-8")
    return Source("folder", tmp_path)


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


def test_usual_names_of_folders():
    assert "wikitext-2-raw" in Wikitext2.folders
    assert "wikitext-2" not in Wikitext2.folders  # the word-level version
    assert "ptb" in PennTreebank.folders


def test_validate_counts_the_built_in_texts(tmp_path, monkeypatch, capsys):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from cllm_bench_tasks.language_modelling.wikitext2 import Wikitext2 as Task\n"
        "@dataclass(frozen=True)\n"
        'class Articles(Task):\n    """Articles."""\n'
    )
    assert cli(monkeypatch, "validate", "--task", "articles", "--plugin", plugin) == 0
    shown = capsys.readouterr().out
    words = len(text("wiki", "test", TEST_ARTICLES).split())
    assert f"articles (built-in): a text of {words:,} words in " in shown
    assert "20 passages to continue; template passage-v1" in shown
    assert "no sentence of it stands in the training text" in shown


@pytest.mark.parametrize("manner", TASKS)
def test_the_built_in_split_for_training(manner, built):
    found = TASKS[manner](train_passages=300).samples(Source(split="train"))
    assert [(s.id, s.prompt, s.reference) for s in found.samples] == [
        (each.id, each.prompt, each.reference) for each in built[manner, "train"][:300]
    ]
    assert TASKS[manner]().train_passages == 20_000
    assert all(sample.prompt and sample.reference.strip() for sample in found.samples)


@pytest.mark.parametrize("manner", TASKS)
def test_the_built_in_passages_are_stretches_of_the_text(manner, built):
    content = TASKS[manner]().text(Source()).content
    for each in built[manner, "test"]:
        assert each.prompt + each.reference in content
        assert each.reference[0].isspace()
    asked = TASKS[manner]().samples(Source()).samples
    assert [sample.id for sample in asked] == [each.id for each in built[manner, "test"][::10]]


def test_texts_are_frozen(built):
    assert {key: digest(found) for key, found in built.items()} == DIGESTS


def test_another_process_writes_the_same(built):
    code = (
        "from cllm_bench_tasks.language_modelling.builtin.sample import passages; import hashlib;"
        "told = [(p.id, p.prompt, p.reference) for m in ('wiki', 'news')"
        " for p in passages(m, 'test', 40)];"
        "print(hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    own = chain.from_iterable(built[manner, "test"][:40] for manner in TASKS)
    assert made.stdout.strip() == digest(own)


@pytest.mark.parametrize("manner", TASKS)
def test_a_shorter_text_is_the_beginning_of_a_longer_one(manner, built):
    assert passages(manner, "train", 100) == built[manner, "train"][:100]
    assert text(manner, "test", TEST_ARTICLES).startswith(text(manner, "test", 20))


@pytest.mark.parametrize("manner", TASKS)
def test_the_text_is_long_enough(manner, built):
    from cllm_bench_methods.target.from_scratch import train_tokenizer

    learned = [each.prompt + each.reference for each in built[manner, "train"]]
    tokenizer = train_tokenizer(learned, 1024)
    content = TASKS[manner]().text(Source()).content
    assert 20_000 <= len(tokenizer(content).input_ids) <= 60_000
    assert len(content) > 80_000


def sentences(found):
    return [sentence for article in found for _, part in article.parts for sentence in part]


@pytest.mark.parametrize("manner", TASKS)
def test_no_sentence_of_the_test_stands_in_the_training_text(manner):
    test = sentences(articles(manner, "test", TEST_ARTICLES))
    train = sentences(articles(manner, "train", TRAIN))
    assert all(split_of(sentence) == "test" for sentence in test)
    assert all(split_of(sentence) == "train" for sentence in train)
    assert not set(test) & set(train)
    assert len(set(test)) > 0.9 * len(test)


@pytest.mark.parametrize("manner", TASKS)
def test_articles_are_distinct_and_no_near_duplicates(manner, built):
    whole = {
        split: [Question(each.id, each.prompt + each.reference) for each in built[manner, split]]
        for split in ("test", "train")
    }
    assert len({question.text for question in whole["train"]}) == TRAIN
    found = find_overlap(whole["train"], whole["test"], ngram=5, threshold=0.5)
    assert not found.exact
    assert not found.near


@pytest.mark.parametrize("manner", TASKS)
def test_the_text_has_the_look_of_its_model(manner):
    content = text(manner, "test", TEST_ARTICLES)
    assert not re.search(r"[{}()|]|  ", content)
    assert not re.search(r"\b[aA] [aeiou]", content)
    if manner == "wiki":
        assert re.search(r"^= [^=]+ =$", content, re.MULTILINE)
        assert re.search(r"^= = History = =$", content, re.MULTILINE)
        assert " @,@ " in content
        assert " @-@ " in content
        assert not re.search(r"\w[.,](\s|$)", content)
    else:
        assert not re.search(r"[A-MO-Z]|N[^ ]|[^ ]N", content)
        assert not re.search(r"[0-9,;]", content)
        assert "<unk>" in content


@pytest.mark.parametrize("topics", [WIKI, NEWS])
def test_every_slot_has_words_and_every_topic_its_templates(topics):
    for topic in topics:
        assert set(topic.facts.values()) <= set(POOLS)
        slots = set(re.findall(r"\{(\w+)\}", repr(topic)))
        assert slots <= set(POOLS) | set(topic.facts), topic.title
        for part in topic.parts:
            assert 0 < part.length[0] <= part.length[1] < len(part.others)
            for template in (*part.first, *part.others):
                assert not re.search(r"\([^()]*\(", template)
                assert template.count("(") == template.count(")")
    for name, pool in POOLS.items():
        assert len(set(pool)) == len(pool) >= 4, name


def test_the_metric_without_the_harness():
    import math

    from cllm_bench_tasks.language_modelling.metric import TextPerplexity

    found = TextPerplexity().compute(
        predictions=[10 * math.log(4), 30 * math.log(4)],
        references=[{"tokens": 10, "words": 5}, {"tokens": 30, "words": 15}],
    )
    assert found["token_perplexity"] == pytest.approx(4)
    assert found["word_perplexity"] == pytest.approx(16)
