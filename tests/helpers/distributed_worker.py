"""What every process of a launch runs: trainings stopped, resumed, guarded, adapted.

Leaves a folder for each training, and what each process saw of errors. Run in a single process it
leaves what they are compared with.
"""

import json
import random
from dataclasses import replace

import torch
from next_token_training import next_token, texts
from packed_answers import PLAIN
from random_models import tiny_model

from cllm_bench.engine.session import Session
from cllm_bench.errors import TrainingCollapsed, UserError
from cllm_bench.machine.processes import barrier, join, on_main, rank, world_size
from cllm_bench.training.trainer import Optimiser, OptimiserSettings
from cllm_bench_methods.cllm.batches import Answer, cllm_loss, make_batch

STEPS = 8
CHAINED = replace(PLAIN, source="online", copies=2, iterations=2)


class StoppedError(Exception):
    pass


def fit(folder, stop=None, guard=None, loss=next_token, kind="llama", **settings):
    def batches(number):
        if stop is not None and number >= stop:
            raise StoppedError
        return texts(number)

    def evaluate(model):
        """With as many passes as the model's own replies take, which the other processes lack."""
        session = Session(model)
        last = session.prefill(torch.tensor([1, 2, 3])).logits
        for _ in range(3):
            last = session.forward([int(last[-1].argmax())]).logits
            session.keep(1)
        return {"held_out": next_token(model, texts(99)).total, "largest": last.max()}

    on_main(lambda: folder.mkdir(exist_ok=True))
    model = tiny_model(kind, tie_word_embeddings=True)
    settings = {"accumulate": 4, "save_every": 0, **settings}
    optimiser = Optimiser(
        model, OptimiserSettings(STEPS, 1e-3, **settings), folder, lambda *_: None
    )
    optimiser.fit(batches, loss, evaluate, every=4, guard=guard)


def error_of(work):
    try:
        work()
    except (TrainingCollapsed, UserError, StoppedError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def nothing_but_nan(model, ids):
    value = next_token(model, ids)
    return value._replace(total=value.total * float("nan"))


def wrong_on_the_last(model, ids):
    """Only the last process computes nonsense; all must stop."""
    return (nothing_but_nan if rank() == world_size() - 1 else next_token)(model, ids)


def consistent(model, ids):
    """A CLLM's loss on online states: its second pass reads the first one's keys."""
    answers = [Answer(tuple(row[:3]), tuple(row[3:]), (), None, 2) for row in ids.tolist()]
    return cllm_loss(model, make_batch(answers, CHAINED, random.Random(0)), CHAINED)


def refused():
    raise UserError("only the main process says no")


def main(folder):
    torch.set_num_threads(1)
    join("cpu")
    on_main(lambda: folder.mkdir(exist_ok=True))
    seen = {
        "stopped": error_of(lambda: fit(folder / "plain", stop=5 * 4)),
        "resumed": error_of(lambda: fit(folder / "plain")),
        "adapted": error_of(
            lambda: fit(folder / "adapted", kind="gpt2", lora_rank=2, gradient_checkpointing=True)
        ),
        "chained": error_of(lambda: fit(folder / "chained", loss=consistent)),
        "bf16": error_of(lambda: fit(folder / "bf16", precision="bf16")),
        "guarded": error_of(
            lambda: fit(folder / "guarded", guard=lambda found: f"no. {len(found)}")
        ),
        "nan": error_of(lambda: fit(folder / "nan", loss=wrong_on_the_last)),
        "again": error_of(lambda: fit(folder / "nan")),
        "uneven": error_of(lambda: fit(folder / "uneven", accumulate=3)),
        "refused": error_of(lambda: on_main(refused)),
    }
    (folder / f"seen-{rank()}.json").write_text(json.dumps(seen))
    barrier()
