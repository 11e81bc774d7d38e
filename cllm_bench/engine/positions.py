"""How long a sequence a model can read, by its configuration.

A layer with a sliding window of W sees the last W tokens, a chunked one those since the last
multiple of W: what a rollback may need again is lost beyond that. Within the first W tokens both
see all that there is, and are layers of full attention. So W is where such a model ends here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_WIDTHS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def forgetful_layers(config: PreTrainedConfig) -> list[str]:
    """Return the kinds of layers that see less than all tokens however few there are."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    return sorted(kinds - {"full_attention", *_WIDTHS})


def attention_window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens all layers see, W; none where all see every token."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if not kinds:  # all layers are alike
        kinds = ["sliding_attention"] if getattr(text, "use_sliding_window", True) else []
    widths = [getattr(text, _WIDTHS[kind], None) for kind in set(kinds) if kind in _WIDTHS]
    return min((int(width) for width in widths if width), default=None)


def positions(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a sequence may have; none where nothing limits it."""
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(filter(None, (known, attention_window(config))), default=None)
