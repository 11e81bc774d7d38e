"""The bundled family: it answers, and exact methods give its greedy answers."""

import json

import pytest
import torch
from greedy_decoding import decode

from cllm_bench.contracts import Message, Source
from cllm_bench.decoding.chat_templates import chat_ids
from cllm_bench.engine.family import find_family
from cllm_bench.engine.family_file import BUNDLED
from cllm_bench.engine.runtime import Runtime
from cllm_bench_methods.ar import Autoregressive
from cllm_bench_methods.cllm.method import Cllm
from cllm_bench_methods.medusa.method import Medusa
from cllm_bench_methods.speculative.method import Speculative
from cllm_bench_tasks.gsm8k.task import Gsm8k
from cllm_bench_tasks.humaneval.task import HumanEval
from cllm_bench_tasks.spider.task import Spider

QUESTIONS = 3
TASKS = {"spider": Spider(), "gsm8k": Gsm8k(), "humaneval": HumanEval()}


@pytest.fixture(scope="module")
def family():
    return find_family("mini", runtime=Runtime("cpu", "float32", threads=1))


@pytest.fixture(scope="module")
def samples():
    return {name: task.samples(Source()).samples[:QUESTIONS] for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def decoded(family, samples):
    prompts = {
        name: [torch.tensor(family.tokenizer(sample.prompt).input_ids) for sample in asked]
        for name, asked in samples.items()
    }

    def answers(method):
        decoder = method.bind(family)
        return {
            name: [decode(decoder, each, limit=256, stop_ids=family.stop_ids) for each in asked]
            for name, asked in prompts.items()
        }

    methods = {
        "ar": Autoregressive(),
        "speculative": Speculative(),
        "medusa": Medusa(),
        "cllm-ar": Cllm(decoding="ar"),
        "cllm": Cllm(),
    }
    return {name: answers(method) for name, method in methods.items()}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", ["ar", "cllm"])
def test_it_answers(family, samples, decoded, method, name):
    task, replies = TASKS[name], decoded[method][name]
    texts = [
        family.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
        for reply in replies
    ]
    scores = [task.score(sample, [text]) for sample, text in zip(samples[name], texts, strict=True)]
    assert sum(scores) / len(scores) >= 0.6
    assert all(reply.finish == "stop" for reply in replies)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("own", "method", "least"),
    [("ar", "speculative", 3.0), ("ar", "medusa", 2.0), ("cllm-ar", "cllm", 3.5)],
)
def test_trained_methods_give_its_answers_in_fewer_passes(decoded, own, method, least, name):
    tokens = passes = 0
    for plain, guessed in zip(decoded[own][name], decoded[method][name], strict=True):
        assert guessed.token_ids == plain.token_ids
        tokens += len(guessed.token_ids) - 1
        passes += len(guessed.accept_lengths)
    assert tokens / passes >= least


def test_its_tokenizer_writes_conversations(family):
    talk: list[Message] = [{"role": "user", "content": "Which is larger, 3 or 5?"}]
    assert chat_ids(family.tokenizer, "checkpoint", talk) == chat_ids(
        family.tokenizer, "plain", talk
    )


@pytest.mark.parametrize("role", ["target", "cllm", "draft", "medusa"])
def test_its_log_and_settings_lie_beside_the_weights(role):
    folder = BUNDLED / "mini" / role
    for each in (folder, folder / "before") if role in ("target", "cllm") else (folder,):
        lines = (each / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
        config = json.loads((each / "training_config.json").read_text(encoding="utf-8"))
        assert json.loads(lines[-1])["step"] == config["configuration"]["settings"]["steps"]
        assert config["configuration"]["recipe"] == role
        assert len(config["configuration"]["tasks"]) == 6
