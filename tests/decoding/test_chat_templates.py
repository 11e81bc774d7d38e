"""Tasks of several turns: prompts that hold the replies so far, rows, verdicts and resumption."""

import json

import pytest
from families import cli, rows, write_checkpoint

from cllm_bench.decoding.chat_templates import TEMPLATES, chat_ids
from cllm_bench.engine.checkpoint import Checkpoint
from cllm_bench.engine.loading import load_tokenizer
from cllm_bench.errors import UserError

TALK = '''
from dataclasses import dataclass
from typing import ClassVar

from cllm_bench.contracts import Sample, SampleSet


@dataclass(frozen=True)
class Talk:
    """Conversations without sense; one that begins with "four" has one turn."""

    metric: ClassVar[str] = "turns"
    best_score: ClassVar[float] = 10.0
    folders: ClassVar[tuple[str, ...]] = ("talk",)

    max_new_tokens: int = 12
    chat_template: str = "plain"
    graded: bool = True

    @property
    def stop(self):
        return ()

    def samples(self, source):
        words = ("one two", "three", "four five", "six seven eight")
        found = [Sample(f"q{i}", text, "xx") for i, text in enumerate(words)]
        return SampleSet(tuple(found), source.kind, "plain-v1", "f" * 64)

    def turns(self, sample):
        return 1 if sample.prompt.startswith("four") else 2

    def messages(self, sample, replies):
        found = [{"role": "user", "content": sample.prompt}]
        for reply in replies:
            found += [{"role": "assistant", "content": reply}, {"role": "user", "content": "two"}]
        return found

    def score(self, sample, replies):
        assert len(replies) == self.turns(sample)
        return float(len(replies)) if self.graded else None
'''


@pytest.fixture
def asked(tmp_path, tiny):
    plugin = tmp_path / "talk.py"
    plugin.write_text(TALK, encoding="utf-8")
    tiny_run = ["--model", tiny[0], "--plugin", plugin, "--data", "built-in", "--threads", 1]
    return ["run", *tiny_run, "--no-noise-floor"]


def test_every_turn_is_a_row_and_continues_the_replies(monkeypatch, tmp_path, tiny, asked):
    out = tmp_path / "out"
    methods = ["--method", "jacobi", "--method", "jacobi:checkpoint=other"]
    assert cli(monkeypatch, *asked, "--task", "talk", *methods, "--output", out) == 0
    stored = rows(out)
    assert len(stored) == 7 * 3 * 4
    by_id = {(row["method"], row["sample"]): row for row in stored if row["repeat"] == 0}
    assert {sample for _, sample in by_id} == {
        "q0/turn-1", "q0/turn-2", "q1/turn-1", "q1/turn-2", "q2/turn-1", "q3/turn-1", "q3/turn-2",
    }  # fmt: skip
    tokenizer = load_tokenizer(Checkpoint(str(tiny[0] / "target")))
    for method in ("ar", "jacobi:checkpoint=other"):
        reply = by_id[method, "q0/turn-1"]["reply"]
        text = f"Question: one two\nAnswer: {reply}\nQuestion: two\nAnswer:"
        wanted = len(tokenizer(text).input_ids)
        assert by_id[method, "q0/turn-2"]["prompt_tokens"] == wanted
        assert by_id[method, "q0/turn-1"]["score"] is None
        assert by_id[method, "q0/turn-2"]["score"] == 2.0
        assert by_id[method, "q2/turn-1"]["score"] == 1.0
    for each in json.loads((out / "summary.json").read_text()):
        assert each["exact_match"] == 1.0
        assert each["samples"] == 7
        assert each["score"] == (2 + 2 + 1 + 2) / 4
    assert "unfinished" not in (out / "table.md").read_text()


def test_a_conversation_cut_between_its_turns_is_asked_again(monkeypatch, tmp_path, asked):
    command = [*asked, "--task", "talk", "--method", "jacobi", "--repeats", 1]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        assert cli(monkeypatch, *command, "--output", out) == 0
    lines = (cut / "samples.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["sample"] != "q3/turn-2"]
    (cut / "samples.jsonl").write_text("".join(kept))
    assert cli(monkeypatch, *command, "--output", cut) == 0
    timed = {"prefill_seconds", "decode_seconds", "attempt", "peak_memory_bytes", "foreign_load"}

    def decided(folder):
        return {
            row["key"]: {name: value for name, value in row.items() if name not in timed}
            for row in rows(folder)
        }

    assert decided(cut) == decided(whole)


def test_a_task_that_does_not_grade_has_no_score(monkeypatch, tmp_path, asked):
    out = tmp_path / "out"
    command = [*asked, "--task", "talk:graded=false", "--method", "ar", "--output", out]
    assert cli(monkeypatch, *command) == 0
    (summary,) = json.loads((out / "summary.json").read_text())
    assert summary["score"] is None
    assert summary["failed"] == 0


def test_a_template_that_the_tokenizer_lacks(monkeypatch, tmp_path, asked, capsys):
    out = tmp_path / "out"
    command = [*asked, "--task", "talk:chat_template=checkpoint", "--method", "ar"]
    assert cli(monkeypatch, *command, "--output", out) == 2
    assert "the tokenizer has no chat template" in capsys.readouterr().err
    assert not out.exists()


def test_behind_a_failed_turn_there_is_nothing_to_ask(monkeypatch, tmp_path, asked):
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN, encoding="utf-8")
    out = tmp_path / "out"
    command = [*asked, "--plugin", broken, "--task", "talk", "--method", "broken", "--repeats", 1]
    assert cli(monkeypatch, *command, "--output", out) == 1
    found = [row for row in rows(out) if row["method"] == "broken"]
    assert len(found) == 7
    errors = {row["sample"]: row["error"] for row in found}
    assert errors["q0/turn-1"] == "RuntimeError: no memory"
    assert errors["q0/turn-2"] == "an earlier turn failed"


BROKEN = '''
from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """Fails."""

    exactness = "exact"
    checkpoint: str = "target"

    def bind(self, family):
        def decoder(prompt_ids, sampling):
            raise RuntimeError("no memory")
            yield

        return decoder
'''


def test_templates(tmp_path):
    tokenizer = load_tokenizer(Checkpoint(str(write_checkpoint(tmp_path / "one"))))
    talk = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    vicuna = tokenizer.decode(chat_ids(tokenizer, "vicuna-v1.1", talk))
    assert vicuna.endswith("questions. USER: one ASSISTANT: two<|end|>USER: three ASSISTANT:")
    with pytest.raises(UserError, match="the tokenizer has no chat template; name one with templ"):
        chat_ids(tokenizer, "checkpoint", talk)
    with pytest.raises(UserError, match=r"'vicuna' is not one of checkpoint, vicuna-v1\.1, plain"):
        chat_ids(tokenizer, "vicuna", talk)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert tokenizer.decode(chat_ids(tokenizer, "checkpoint", talk)) == "[one][two][three]"
    assert set(TEMPLATES) == {"vicuna-v1.1", "plain"}
