"""Every method that runs on sessions, on tiny models and over sessions of any kind."""

from medusa_decoders import random_heads
from noisy_families import noisy
from random_models import tiny_model

from cllm_bench.engine.fusion import fuse
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_methods.lookahead.method import Lookahead, LookaheadDecoder
from cllm_bench_methods.medusa.method import Medusa, MedusaDecoder
from cllm_bench_methods.medusa.tree import Tree
from cllm_bench_methods.prompt_lookup import PromptLookup, PromptLookupDecoder
from cllm_bench_methods.speculative.method import Speculative, SpeculativeDecoder

TREE = "0.0.0.0;0.1.0;0.0.1.1;1.0.1;1.1;2"


def models(kind="llama", **changes):
    """A model, a draft that often agrees with it, and random heads."""
    model = tiny_model(kind, **changes)
    draft = fuse(noisy(model))
    return fuse(model), draft, random_heads(model, 4)


def decoders_of(model, draft, heads, new_session):
    """The decoders by name; each has sessions of its own, made by `new_session`."""
    sessions = [new_session(model) for _ in range(7)]
    vocabulary = model.config.vocab_size
    return {
        "ar": AutoregressiveDecoder(sessions[0]),
        "jacobi": JacobiDecoder(Jacobi(8), sessions[1], vocabulary, 0),
        "sliding": JacobiDecoder(Jacobi(refill="sliding"), sessions[2], vocabulary, 0),
        "prompt_lookup": PromptLookupDecoder(PromptLookup(), sessions[3]),
        "lookahead": LookaheadDecoder(Lookahead(4, 5, 4), sessions[4]),
        "medusa": MedusaDecoder(Medusa(TREE), sessions[5], heads, Tree.parse(TREE)),
        "speculative": SpeculativeDecoder(
            Speculative(4), sessions[6], new_session(draft), vocabulary, 0
        ),
    }
