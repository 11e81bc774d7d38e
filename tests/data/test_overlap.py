"""Prompts that two sets share: the measure, its search, and the command."""

import json
import random
import time

import pytest
from families import cli, write_task

from cllm_bench.data.overlap import Question, find_overlap, grams, words

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Sample, SampleSet


@dataclass(frozen=True)
class Asking:
    """Prompts behind a long template."""

    metric: ClassVar[str] = "none"
    best_score: ClassVar[float] = 1.0
    folders: ClassVar[tuple[str, ...]] = ()

    max_new_tokens: int = 20
    stop: ClassVar[tuple[str, ...]] = ()
    bare: bool = True

    def samples(self, source):
        first = 0 if source.split == "train" else 2
        texts = [f"What is the number {i} plus the number {i + 1} here?" for i in range(4)]
        found = [
            Sample(str(i), f"A template of many words that all prompts share: {text}", "x",
                   {"question": text} if self.bare else {})
            for i, text in enumerate(texts[first : first + 2])
        ]
        where = source.kind if source.path is None else source.path.name
        return SampleSet(tuple(found), f"{where} {source.split}", "t", "f" * 64)

    def score(self, sample, replies):
        return None


@dataclass(frozen=True)
class Talking(Asking):
    """The same as conversations."""

    chat_template: ClassVar[str] = "checkpoint"

    def turns(self, sample):
        return 2

    def messages(self, sample, replies):
        return [{"role": "user", "content": f"turn {len(replies) + 1} of {sample.id}"}]
'''


def questions(*texts):
    return [Question(str(place), text) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How many, in all?", ["how", "many", "in", "all"]),
        ("  HOW\tmany\n", ["how", "many"]),
        ("It's $1,034.", ["it", "s", "1", "034"]),
        ("Straße ｆｕｌｌ", ["strasse", "full"]),
        ("?!", []),
    ],
)
def test_words(text, found):
    assert words(text) == found


def test_grams():
    assert grams("abcd", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert grams("ab", 3) == {("a", "b")}
    assert grams("", 3) == {()}


def test_same_words_are_the_same_question():
    train = questions("How MANY apples are there?", "How many apples, are there!", "apples")
    test = questions("how many apples are there", "How many pears are there", "Apples?")
    found = find_overlap(train, test, ngram=5, threshold=0.7)
    assert [(match.test.id, match.train.id) for match in found.exact] == [("0", "0"), ("2", "2")]
    assert (found.train, found.test, found.near, found.neither) == (3, 3, (), 1)


def test_near_duplicates_take_the_most_similar():
    test = questions("one two three four five six seven eight nine ten")  # 8 runs of 3
    train = questions(
        "one two three four five six seven x",
        "zero one two three four five six seven eight nine x and much more text than that",
        "one two three x four five",
    )
    found = find_overlap(train, test, ngram=3, threshold=0.5)
    ((sought, match, share),) = found.near
    assert (sought.id, match.id, share) == ("0", "1", 7 / 8)
    assert find_overlap(train, test, ngram=3, threshold=7 / 8).near == found.near
    assert find_overlap(train, test, ngram=3, threshold=0.88).near == ()
    assert find_overlap(train[:1], test, ngram=3, threshold=0.5).near[0].similarity == 5 / 8


def test_a_question_within_a_longer_text_is_found():
    test = questions("How far is it from here to there?")
    train = questions("### Instruction: answer. How far is it from here to there? ### Response:")
    found = find_overlap(train, test, ngram=5, threshold=1.0)
    assert found.near[0].similarity == 1.0
    assert found.whole == 0


def test_a_question_shorter_than_a_run_is_compared_whole_and_counted():
    test = questions("How far is it?", "Why is that so?", "How far is it now?")
    train = questions("Tell me: How far is it?", "why is that so")
    found = find_overlap(train, test, ngram=5, threshold=0.5)
    assert ([match.test.id for match in found.exact], found.near) == (["1"], ())
    assert (found.whole, found.neither) == (2, 2)


@pytest.mark.parametrize("ngram", [1, 2, 4])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 2 / 3, 0.9, 1.0])
def test_search_finds_every_pair(ngram, threshold):
    """Against a comparison of all with all, on texts of few words, where pairs abound."""
    rng = random.Random(f"{ngram} {threshold}")
    vocabulary = "abcdefgh"
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 9))) for _ in range(160)]
    train, test = questions(*texts[:100]), questions(*texts[100:])
    found = find_overlap(train, test, ngram=ngram, threshold=threshold)
    same = {words(each.text).__repr__() for each in train}
    expected = {}
    for sought in test:
        runs = grams(words(sought.text), ngram)
        best = max(len(runs & grams(words(each.text), ngram)) / len(runs) for each in train)
        if repr(words(sought.text)) not in same and best >= threshold:
            expected[sought.id] = best
    assert {match.test.id: match.similarity for match in found.near} == expected
    assert [each.id for each in test if repr(words(each.text)) in same] == [
        match.test.id for match in found.exact
    ]
    shares = [match.similarity for match in found.near]
    assert shares == sorted(shares, reverse=True)


def test_large_sets_take_seconds():
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(300)]
    train = [Question("x", " ".join(rng.choices(vocabulary, k=40))) for _ in range(20_000)]
    test = [Question("x", " ".join(rng.choices(vocabulary, k=40))) for _ in range(1_300)]
    start = time.process_time()
    found = find_overlap(train, [*test, train[7]], ngram=5, threshold=0.7)
    assert time.process_time() - start < 20
    assert (len(found.exact), len(found.near)) == (1, 0)


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "asking.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


@pytest.fixture
def overlap(monkeypatch, plugin, capsys):
    def run(*arguments):
        code = cli(monkeypatch, "overlap", "--plugin", plugin, *arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_command_on_a_task(overlap, tmp_path):
    file = tmp_path / "report.json"
    code, out, _ = overlap("--train", "asking", "--test", "asking", "--output", file)
    assert code == 0
    assert "train: asking (built-in train), 2 questions\n" in out
    assert "test: asking (built-in test), 2 questions\n" in out
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["train"] == {"name": "asking (built-in train)", "questions": 2, "note": ""}
    assert (report["ngram"], report["threshold"]) == (5, 0.7)
    assert (report["exact"]["count"], report["near"]["count"]) == (0, 0)
    assert report["compared_whole"] == 0
    assert "compared whole" not in out


def test_command_on_folders_and_files(overlap, tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": "something else entirely"},
        {"turns": ["what is the number 3 plus the number 4, here", "and now?"]},
        {"question": "Tell me: What is the number 2 plus the number 3 here?"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    folder = tmp_path / "data"
    folder.mkdir()
    report = tmp_path / "report.md"
    code, out, _ = overlap("--train", file, "--test", f"asking={folder}", "--output", report)
    assert code == 0
    assert "train: mine.jsonl, 4 questions; each turn counts as a question\n" in out
    assert "test: asking (data test), 2 questions\n" in out
    assert "train mine.jsonl:2/turn-1: what is the number 3 plus" in out
    assert "train mine.jsonl:3: Tell me: What is" in out
    text = report.read_text(encoding="utf-8")
    assert "| in the training set  |     1 | 50.0% |" in text
    assert "| near-duplicate there |     1 | 50.0% |" in text
    assert "| neither              |     0 |  0.0% |" in text
    assert "## Near-duplicates: 1 of 1\n\n- 100%\n  - test `0`: What is the number 2" in text


def test_command_takes_the_hub_settings_and_whole_prompts(overlap):
    code, out, _ = overlap("--train", "asking=hub", "--test", "asking:bare=false")
    assert code == 0
    assert "train: asking (hub train), 2 questions\n" in out
    assert "test: asking (built-in test), 2 questions; whole prompts are compared\n" in out


def test_command_reads_every_turn_of_a_conversation(overlap, tmp_path):
    code, out, _ = overlap("--train", "talking", "--test", "talking")
    assert code == 0
    assert "test: talking (built-in test), 4 questions; each turn counts as a question\n" in out
    assert "4 of the test questions have fewer words than that: they are compared whole" in out
    assert "train 0/turn-1: turn 1 of 0" in out
    assert "train 0/turn-2: turn 2 of 0" in out
    assert "│     4 │ 100.0% │" in out
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "x"}\n{"turns": ["y", "Turn 2 of 1"]}\n', encoding="utf-8")
    code, out, _ = overlap("--train", file, "--test", "talking")
    assert code == 0
    assert "  test  1/turn-2: turn 2 of 1\n  train mine.jsonl:2/turn-2: Turn 2 of 1\n" in out


def test_turns_that_several_samples_share_count_once(overlap):
    """A training sample of mt_bench is one turn, and knows the whole conversation."""
    train = ("--train", "mt_bench:train_conversations=8")
    code, out, _ = overlap(*train, "--test", "mt_bench")
    assert code == 0
    assert "train: mt_bench (built-in), 16 questions; each turn counts as a question\n" in out
    assert "test: mt_bench (built-in), 208 questions; each turn counts as a question\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "nowhere.jsonl"], "--train: no file 'nowhere.jsonl'; give TASK, TASK=DIR or"),
        (["--train", "no/such/file"], "--train: no file 'no/such/file'"),
        (["--train", "askin"], "no task named 'askin'; did you mean 'asking'?"),
        (["--train", "asking:bear=no"], "has no setting 'bear'; did you mean 'bare'?"),
        (["--test", "asking=nowhere"], "--test: no folder 'nowhere' (nor is it `built-in` or"),
        (["--ngram", "0"], "--ngram must be at least 1, not 0"),
        (["--threshold", "0"], "--threshold must be above 0 and at most 1, not 0"),
        (["--threshold", "nan"], "--threshold must be above 0 and at most 1, not nan"),
        (["--output", "report.txt"], "--output 'report.txt' must end in .md or .json"),
        (["--output", "no/such/report.md"], "cannot write 'no/such/report.md'"),
        (["--train", "bad.jsonl"], "bad.jsonl line 2: no JSON"),
        (["--test", "empty.jsonl"], "'empty.jsonl' is empty"),
    ],
    ids=" ".join,
)
def test_bad_input(overlap, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt"\n')
    (tmp_path / "empty.jsonl").write_text("")
    given = {"--train": "asking", "--test": "asking"} | dict([arguments])
    code, _, error = overlap(*(part for pair in given.items() for part in pair))
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_real_overlap(overlap, real_data, tmp_path):
    """Spec-Bench's problems are from GSM8K's test split; GSM8K's own splits share none."""
    gsm8k, spec_bench = real_data / "gsm8k", real_data / "spec_bench" / "question.jsonl"
    if not (gsm8k.is_dir() and spec_bench.is_file()):
        pytest.skip(f"no gsm8k and spec_bench in {real_data}")
    for train, exact, near in (("test.jsonl", 80, 0), ("train.jsonl", 0, 0)):
        report = tmp_path / f"{train}.json"
        code, _, _ = overlap("--train", gsm8k / train, "--test", spec_bench, "--output", report)
        assert code == 0
        found = json.loads(report.read_text(encoding="utf-8"))
        assert (found["exact"]["count"], found["near"]["count"]) == (exact, near)


def test_a_task_without_questions(overlap, tmp_path):
    file = write_task(tmp_path)
    code, _, error = overlap("--plugin", file, "--train", "counting:count=0", "--test", "counting")
    assert code == 2
    assert "--train: counting (built-in) has no questions" in error
