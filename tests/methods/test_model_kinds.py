"""Every exact method gives the library's own greedy tokens, on models of further families.

The tests of each method do the same at length, on the kinds that `random_models.KINDS` names.
"""

import pytest
from greedy_decoding import decode, expected_tokens
from medusa_decoders import medusa
from noisy_families import noisy, speculative
from random_models import FURTHER, UNFUSED, VOCABULARY, WINDOW, tiny_config, tiny_model

from cllm_bench.engine.fused_layers import fused_layers_of
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.loading import refuse_behaviour, refuse_config
from cllm_bench.engine.positions import attention_window
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError
from cllm_bench_methods.ar import AutoregressiveDecoder
from cllm_bench_methods.jacobi.method import Jacobi, JacobiDecoder
from cllm_bench_methods.lookahead.method import Lookahead, LookaheadDecoder
from cllm_bench_methods.prompt_lookup import PromptLookup, PromptLookupDecoder

LIMIT = 14
EAGER = ("gemma2",)  # caps its scores, which no other kernel does
WINDOWED = ("mistral", "gemma2", "gemma3", "gemma3-seeing", "starcoder2")
KINDS = (*FURTHER, *UNFUSED, *EAGER)


def model_of(kind, seed=0, **changes):
    kernel = {"attn_implementation": "eager"} if kind in EAGER else {}
    return tiny_model(kind, seed, **kernel | changes)


def decoders(model, draft):
    """All exact methods on one model."""
    settings = Jacobi(block_size=8, refill="sliding", guess="prompt")
    return {
        "ar": AutoregressiveDecoder(Session(model)),
        "jacobi": JacobiDecoder(settings, Session(model), VOCABULARY, pad_id=0),
        "lookahead": LookaheadDecoder(Lookahead(3, 4, 4, True), Session(model)),
        "prompt_lookup": PromptLookupDecoder(PromptLookup(ngram=1, k=3), Session(model)),
        "speculative": speculative(model, draft, k=3),
        "medusa": medusa(model, "0.0;1.0;2"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_exact_method_gives_the_library_s_tokens(kind, prompts):
    library, model = model_of(kind), model_of(kind)
    refuse_config(model.config, kind)
    draft = fuse(noisy(model))
    refuse_behaviour(fuse(model), kind)
    assert len(fused_layers_of(model)) == (2 if kind in FURTHER else 0)
    for prompt in prompts[5::10]:
        tokens = expected_tokens(library, prompt, LIMIT)
        for name, decoder in decoders(model, draft).items():
            assert decode(decoder, prompt, limit=LIMIT).token_ids == tokens, name


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_is_used_to_its_last_token(kind, prompts):
    """And no further: what slides out of it could not come back."""
    library, model = model_of(kind, sliding_window=32), fuse(model_of(kind, sliding_window=32))
    assert attention_window(model.config) == 32
    prompt = prompts[8]
    limit = 32 - len(prompt) + 1  # the last token is never read
    tokens = expected_tokens(library, prompt, limit)
    for name, decoder in decoders(model, fuse(noisy(model))).items():
        assert decode(decoder, prompt, limit=limit).token_ids == tokens, name
        with pytest.raises(UserError, match="attention of 'target' has a window of 32"):
            decode(decoder, prompt, limit=limit + 1)


def test_all_windows_of_these_models_are_known():
    found = {kind: attention_window(tiny_config(kind)) for kind in KINDS}
    assert found == {kind: WINDOW if kind in WINDOWED else None for kind in KINDS}
