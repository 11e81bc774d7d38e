"""Commands that train a CLLM of the tiny family in seconds, and what they leave."""

import json

SHORT = {
    "questions": 20,
    "block_size": 8,
    "held_out": 4,
    "evaluate_every": 2,
    "steps": 4,
    "tokens": 256,
    "learning_rate": 1e-3,
    "clean": "false",
}
TASK = "counting:count=30"


def arguments(tiny, output, *more, task=TASK, **settings):
    chosen = ",".join(f"{name}={value}" for name, value in {**SHORT, **settings}.items())
    family, plugin = tiny
    asked = ["train", f"cllm:{chosen}", "--model", family, "--plugin", plugin, "--task", task]
    common = ["--data", plugin.parent, "--output", output, "--device", "cpu", "--threads", 1]
    return [*map(str, [*asked, *common, *more])]


def training_log(folder):
    lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def collection(output, round_=1):
    return output / "training" / "cllm" / f"collect-{round_}" / "counting"


def contents(folder):
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
