"""Trainings that end themselves with SIGKILL: what they are writing then stays a half."""

import forked

SHARD_SIZE = 6


def killed_as_it_collects(asked):
    """In the middle of the third shard of trajectories."""
    from pyarrow import parquet

    _save_often()
    parquet.write_table = _dying(parquet.write_table, 3)
    forked.command(*asked)


def killed_as_it_fits(asked):
    """In the middle of the fourth save of a training's state."""
    from cllm_bench.training import trainer

    real, seen = trainer.write_state, []

    def write(file, state):
        if file.name == "checkpoint.pt":
            seen.append(file)
            if len(seen) == 4:
                _write_half(file.with_name(file.name + ".writing"))
        real(file, state)

    _save_often()
    trainer.write_state = write
    forked.command(*asked)


def killed_at_step(asked, step, saved):
    """Before a step, when the state was saved last after another one."""
    from cllm_bench.training import trainer

    real = trainer.Optimiser._one_step

    def one_step(self, *given):
        if self._step == step:
            forked.die()
        figures, _ = real(self, *given)
        return figures, self._step == saved - 1

    trainer.Optimiser._one_step = one_step
    forked.command(*asked)


def killed_collection(questions, folder, settings, after):
    """Trajectories alone, until so many questions are done."""
    import torch
    from collections_of import decoder_of
    from random_models import tiny_model

    from cllm_bench_methods.trajectories.collect import collect

    def listen(what, done, total):
        if done == after:
            forked.die()

    torch.set_num_threads(1)
    decoder = decoder_of(tiny_model("llama"))
    collect(questions, decoder, folder=folder, settings=settings, listen=listen)


def _save_often():
    from cllm_bench.training.trainer import OptimiserSettings
    from cllm_bench_methods.trajectories.collect import CollectionSettings

    for kind, change in (
        (CollectionSettings, {"shard_size": SHARD_SIZE}),
        (OptimiserSettings, {"save_every": 0}),
    ):
        kind.__init__ = _changed(kind.__init__, change)


def _changed(real, change):
    return lambda self, *given, **named: real(self, *given, **named | change)


def _dying(real, at):
    calls = []

    def write(what, where):
        calls.append(where)
        if len(calls) == at:
            _write_half(where)
        return real(what, where)

    return write


def _write_half(where):
    stream = where if hasattr(where, "write") else where.open("wb")
    stream.write(b"PAR1 a half")
    stream.flush()
    forked.die()
