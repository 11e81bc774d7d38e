"""The contract suite for tasks: the built-in ones keep it, and each broken one is told why."""

from dataclasses import dataclass, field, replace

import pytest
from families import cli

from cllm_bench.contracts import Sample, SampleSet, ScoredText
from cllm_bench.errors import UserError
from cllm_bench.testing.methods import check_task, task_suite
from cllm_bench.testing.tasks import TASK_CHECKS

test_spider_keeps_the_contract = task_suite("spider:train_questions=3000")
test_gsm8k_keeps_the_contract = task_suite("gsm8k:train_questions=3000")
test_humaneval_keeps_the_contract = task_suite("humaneval:train_questions=2000")
test_mt_bench_keeps_the_contract = task_suite("mt_bench:train_conversations=2000")
test_wikitext2_keeps_the_contract = task_suite("wikitext2:train_passages=300")
test_ptb_keeps_the_contract = task_suite("ptb:train_passages=300")


@dataclass(frozen=True)
class Capitals:
    """Which city is the capital?"""

    metric = "right city"
    best_score = 1.0
    folders = ("capitals",)
    stop = ("\n",)
    max_new_tokens: int = 16

    def samples(self, source):
        asked = tuple(
            Sample(f"{source.split}-{name}", f"The capital of {name} is", f" {city}")
            for name, city in self.known(source.split)
        )
        return SampleSet(asked, "mine", "plain-v1", f"capitals-{source.split}")

    def known(self, split):
        return {"test": (("France", "Paris"), ("Peru", "Lima")), "train": (("Chad", "X"),)}[split]

    def score(self, sample, replies):
        return float(sample.reference.strip() == replies[0].strip())


test_a_plugin_keeps_the_contract = task_suite(Capitals)


def outcome(task, check):
    (found,) = [each for each in check_task(task) if each.check == check]
    return found


def changed(**members):
    return dataclass(frozen=True)(type("Broken", (Capitals,), {"__doc__": "Broken.", **members}))


CALLS = iter(range(10_000))


@pytest.mark.parametrize(
    ("members", "check", "message"),
    [
        ({"metric": ""}, "declaration", "is no text"),
        ({"best_score": -1}, "declaration", "no number of 0 or above"),
        ({"stop": "\n"}, "declaration", "not a tuple of texts"),
        ({"stop": ("",)}, "declaration", "not a tuple of texts"),
        ({"folders": None}, "declaration", "not a tuple of texts"),
        ({"known": lambda self, split: ()}, "samples", "no questions"),
        (
            {"known": lambda self, split: (("Peru", "Lima"), ("Peru", "Lima"))},
            "samples",
            "stands twice",
        ),
        (
            {"known": lambda self, split: (("Peru", f"city {next(CALLS)}"),)},
            "same_again",
            "others at the second call",
        ),
        ({"score": lambda self, sample, replies: 0.5}, "references", "scores 0.5, not 1"),
        ({"score": lambda self, sample, replies: 2.0}, "references", "scores 2.0, not 0 to 1"),
        (
            {"score": lambda self, sample, replies: float(replies[0].split()[0] in " Paris Lima")},
            "odd_replies",
            "grading '' for test-France raised IndexError",
        ),
        ({"stop": ("ar",)}, "stops", "holds the stop string 'ar'"),
        (
            {
                "samples": lambda self, source: replace(
                    Capitals().samples(replace(source, split="test")),
                    fingerprint=source.split,
                )
            },
            "splits",
            "2 questions of the test are in training too, such as test-France",
        ),
    ],
)
def test_a_broken_task_is_told_why(members, check, message):
    found = outcome(changed(**members), check)
    assert found.status == "failed"
    assert message in found.message


def test_a_task_without_docstring_or_dataclass():
    assert "no docstring" in outcome(changed(__doc__=None), "declaration").message
    plain = type("Plain", (), dict(Capitals.__dict__))
    assert outcome(replace(Capitals()), "declaration").status == "passed"
    del plain.__dataclass_fields__
    assert "no frozen dataclass" in outcome(plain(), "declaration").message


def test_what_is_missing_is_named():
    @dataclass(frozen=True)
    class Nothing:
        """Nothing."""

        metric = "x"

    found = check_task(Nothing)
    assert found[0].message == "no task: it lacks best_score, folders, max_new_tokens, stop"
    assert {each.status for each in found[1:]} == {"skipped"}


def test_settings_that_cannot_be_given_as_text():
    @dataclass(frozen=True)
    class Listed(Capitals):
        """With a list."""

        names: tuple[str, ...] = field(default=("a", "b"))

    assert outcome(Listed, "settings").status == "failed"


def talk(messages):
    return {
        "chat_template": "plain",
        "turns": lambda self, sample: 2,
        "messages": messages,
        "score": lambda self, sample, replies: None,
    }


def test_conversations_end_with_the_user():
    def whole(self, sample, replies):
        found = [{"role": "user", "content": "a"}]
        for reply in replies:
            found += [{"role": "assistant", "content": reply}, {"role": "user", "content": "b"}]
        return found

    assert outcome(changed(**talk(whole)), "turns").status == "passed"
    cut = changed(**talk(lambda self, sample, replies: whole(self, sample, replies)[:1]))
    assert "turn 2 of test-France has the roles user" in outcome(cut, "turns").message
    deaf = changed(**talk(lambda self, sample, replies: whole(self, sample, ["x"] * len(replies))))
    assert "does not hold the reply before it" in outcome(deaf, "turns").message


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (lambda sample: "Who?", "failed"),
        (lambda sample: sample.prompt, "passed"),  # a later turn alone is no question
    ],
)
def test_conversations_are_compared_by_what_the_user_says(first, status):
    def messages(self, sample, replies):
        found = [{"role": "user", "content": first(sample)}]
        for reply in replies:
            found += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": "Make it shorter."},
            ]
        return found

    found = outcome(changed(**talk(messages)), "splits")
    assert found.status == status
    if status == "failed":
        assert "2 questions of the test are in training too, such as test-France" in found.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ScoredText(" ", 8, 8), "the text is empty"),
        (ScoredText("a b", 8, 9), "a stride of 9 in windows of 8"),
    ],
)
def test_texts(text, message):
    broken = changed(text=lambda self, source: text)
    assert message in outcome(broken, "text").message


def test_every_check_is_described():
    assert all(code.__doc__ for code, _ in TASK_CHECKS.values())


def test_no_such_task():
    with pytest.raises(UserError, match="no task named 'spidr'"):
        check_task("spidr")


def test_the_command(monkeypatch, tmp_path, tiny, capsys):
    assert cli(monkeypatch, "check-task", "counting", "--plugin", tiny[1], "--data", tmp_path) == 0
    assert "checks:" in capsys.readouterr().out
    assert cli(monkeypatch, "check-task", "spidr") == 2
    assert "spidr" in capsys.readouterr().err
    assert cli(monkeypatch, "check-task", "gsm8k", "--data", tmp_path) == 2
    assert "nothing was asked" in capsys.readouterr().err
