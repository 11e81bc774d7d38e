"""Judges that are local checkpoints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from families import cli, write_checkpoint
from judged_runs import PROMPT, PROMPTS, judgements

pytest_plugins = ("judge_fixtures",)
pytestmark = pytest.mark.usefixtures("judge_environment")


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def chat_checkpoint(folder: Path, template: str | None) -> Path:
    from cllm_bench.engine.checkpoint import Checkpoint
    from cllm_bench.engine.loading import load_tokenizer

    write_checkpoint(folder, seed=3)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 8192
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(Checkpoint(str(folder)))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_judge_answers_as_transformers_does(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cllm_bench.core.registry import Registry
    from cllm_bench.engine.runtime import Runtime
    from cllm_bench.judge import local as judge_local

    folder = chat_checkpoint(tmp_path / "wise", TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_local, "MAX_TOKENS", 20)
        local = judge_local.LocalJudge(str(folder), Runtime("cpu", threads=1), Registry())
        found = local.ask(PROMPT)
    assert local.name == "wise (local)"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"[system]{PROMPT.system}[user]{PROMPT.user}[assistant]").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    reply = expected[0, len(ids) :]
    assert found.text == tokenizer.decode(reply, skip_special_tokens=True)
    assert (found.prompt_tokens, found.completion_tokens) == (len(ids), len(reply))


def test_local_judges_are_told_apart_by_their_weights(tmp_path):
    """Of two folders of one name, and of one folder before and after a training."""
    from cllm_bench.core.registry import Registry
    from cllm_bench.engine.loading import fingerprint
    from cllm_bench.engine.runtime import Runtime
    from cllm_bench.judge.local import LocalJudge
    from cllm_bench.results.judgements import JudgeId

    def local(folder: Path) -> LocalJudge:
        fingerprint.cache_clear()  # as in a new process
        return LocalJudge(str(folder), Runtime("cpu", threads=1), Registry())

    first, second = tmp_path / "one" / "target", tmp_path / "two" / "target"
    for seed, folder in enumerate((first, second)):
        write_checkpoint(folder, seed=seed)
    judges = [local(first), local(second)]
    assert {each.name for each in judges} == {"target (local)"}
    identities = [each.identity for each in judges]
    assert local(first).identity == identities[0] != identities[1]
    write_checkpoint(first, seed=2)
    assert local(first).identity not in identities
    named = str(JudgeId(judges[0].name, identities[0]))
    assert re.fullmatch(r"target \(local\)@sha256:[0-9a-f]{12}", named)
    assert identities[0].startswith(named.partition("@")[2])


def test_a_local_judge_judges_a_run(monkeypatch, tmp_path, out, plugin, capsys):
    folder = chat_checkpoint(tmp_path / "wise", TEMPLATE)
    monkeypatch.setattr("cllm_bench.judge.local.MAX_TOKENS", 8)
    asked = ["judge", out, "--judge", folder, "--plugin", plugin, "--threads", 1]
    assert cli(monkeypatch, *asked) == 1  # its weights are random: it gives no ratings
    shown = capsys.readouterr().err
    assert "judge wise (local): 0 of 12 replies have a rating; this time 6 requests" in shown
    stored = judgements(out)
    assert len(stored) == PROMPTS
    for each in stored:
        assert each["identity"].startswith("sha256:")
        assert each["score"] is None
        assert each["error"] == "the judge's answer contains no rating from 1 to 10"
        assert each["text"] is not None
        assert each["completion_tokens"] <= 8 < each["prompt_tokens"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template; use a chat model"),
        ("{{ raise_exception('System role not supported') }}", "support a system prompt (System"),
    ],
)
def test_a_local_judge_that_cannot(monkeypatch, tmp_path, out, plugin, capsys, template, message):
    folder = chat_checkpoint(tmp_path / "dumb", template)
    asked = ["judge", out, "--judge", folder, "--plugin", plugin, "--threads", 1]
    assert cli(monkeypatch, *asked) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
