"""Collections of trajectories with a tiny model."""

from random_models import VOCABULARY

from cllm_bench.engine.session import Session
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_methods.trajectories.collect import CollectionSettings

SIZE = 8


LIMIT = 28


def decoder_of(model, size=SIZE, **settings):
    return JacobiDecoder(Jacobi(block_size=size, **settings), Session(model), VOCABULARY, 0)


def settings_of(**changes):
    return CollectionSettings(
        **{
            "max_new_tokens": LIMIT,
            "stop_ids": frozenset({3}),
            "block_size": SIZE,
            "shard_size": 4,
        }
        | changes
    )
