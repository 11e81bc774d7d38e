"""Weights and tokenizers from folders and from the Hub; what cannot be measured here is refused."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from cllm_bench.core.files import reading
from cllm_bench.engine import attention
from cllm_bench.engine.checkpoint import (
    Checkpoint,
    declared_kind,
    is_quantised,
    refuse_unknown_kind,
)
from cllm_bench.engine.fusion import fuse
from cllm_bench.engine.memory import placement, refuse_offload
from cllm_bench.engine.positions import attention_window, forgetful_layers
from cllm_bench.engine.runtime import Runtime
from cllm_bench.engine.session import Session
from cllm_bench.errors import UserError

# Any of them is a tokenizer; a checkpoint may lack one and use its target's.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

# The harness says what it loads, and refuses what is not whole; transformers' own bars and
# warnings, and those of what it loads quantised weights with, would write into its display.
disable_progress_bar()
set_verbosity_error()
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
attention.register()


def load_model(checkpoint: Checkpoint, runtime: Runtime) -> PreTrainedModel:
    """Load a causal model for inference, and fuse its operations.

    Raises:
        UserError: As for `load_weights`, or its cache cannot roll back.
    """
    model = load_weights(checkpoint, runtime, windows=True).eval()
    if runtime.attention == "sdpa":
        model.set_attn_implementation(attention.GROUPED)
    with _room(checkpoint, runtime):
        refuse_behaviour(fuse(model), checkpoint.location)
    return model


def load_weights(
    checkpoint: Checkpoint, runtime: Runtime, *, windows: bool = False
) -> PreTrainedModel:
    """Load a causal model as transformers has it, to be trained.

    Args:
        checkpoint: Where the weights are.
        runtime: Device, precision and kernel.
        windows: Whether a model with a sliding window is taken, because no sequence will leave it.

    Raises:
        UserError: There is no such checkpoint, it is not whole, its cache cannot roll back, or it
            does not fit into the device's memory.
    """
    where = {"pretrained_model_name_or_path": checkpoint.location, "revision": checkpoint.revision}
    try:
        config = AutoConfig.from_pretrained(**where)
        refuse_config(config, checkpoint.location)
        refuse_kernel(config, runtime.attention, checkpoint.location)
        if not windows:
            refuse_window(config, checkpoint.location)
        quantised = declared_kind(config) is not None
        with _room(checkpoint, runtime):
            model, report = AutoModelForCausalLM.from_pretrained(
                **where,
                config=config,
                # What is quantised has a precision of its own, and may not be moved later.
                dtype="auto" if quantised else getattr(torch, runtime.dtype),
                **placement(checkpoint, runtime),
                attn_implementation=runtime.attention,
                output_loading_info=True,
            )
    except UserError:
        raise
    except Exception as error:  # a damaged file, or a package that is missing, may raise anything
        raise _cannot_load("model", checkpoint, error) from None
    sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    if sinks and runtime.attention != "eager":
        raise _kernel_lacks(checkpoint.location, "has attention sinks", runtime.attention)
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"'{checkpoint.location}' lacks weights: {names}")
    refuse_offload(model, runtime, checkpoint.location)
    found: PreTrainedModel = model
    return found


def load_plain_model(checkpoint: Checkpoint, runtime: Runtime) -> PreTrainedModel:
    """Load a causal model for transformers' own loops: nothing is fused, and nothing preset.

    A checkpoint may bring settings of its own (top-k, penalties) that would fill every gap.

    Raises:
        UserError: As for `load_weights`.
    """
    model = load_weights(checkpoint, runtime, windows=True).eval()
    model.generation_config = GenerationConfig()
    return model


@contextmanager
def _room(checkpoint: Checkpoint, runtime: Runtime) -> Iterator[None]:
    """Tell in one line that a model does not fit into the device's memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"'{checkpoint.location}' does not fit into the memory of {runtime.device} in "
            f"{runtime.dtype}; name a smaller model or another --device"
        ) from None


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        UserError: There is none.
    """
    try:
        return AutoTokenizer.from_pretrained(checkpoint.location, revision=checkpoint.revision)
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", checkpoint, error) from None


def _cannot_load(what: str, checkpoint: Checkpoint, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"cannot load the {what} of '{checkpoint.location}': {reason}")


def refuse_tokenizer(
    own: Checkpoint, role: str, target: Checkpoint, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a role's checkpoint that has a tokenizer of its own, unlike the target's.

    Its ids would mean other texts, and every figure would be wrong without a sign of it.

    Args:
        own: Of the role; one without tokenizer files uses the target's.
        role: Named in the error.
        target: Named in the error.
        tokenizer: The target's.

    Raises:
        UserError: The tokenizers differ in a token's id or in the end token.
    """
    if own == target or not _has_tokenizer(own):
        return
    other = load_tokenizer(own)
    ids, expected = set(other.get_vocab().items()), set(tokenizer.get_vocab().items())
    if ids != expected:
        text = f"{len({token for token, _ in ids ^ expected})} tokens have other ids or none"
    elif other.eos_token_id != tokenizer.eos_token_id:
        text = f"its end token is {other.eos_token!r}, not {tokenizer.eos_token!r}"
    else:
        return
    raise UserError(
        f"the tokenizer of '{role}' ('{own.location}') differs from that of 'target' "
        f"('{target.location}'): {text}; name a checkpoint that was made from this target with "
        f"--role {role}=PATH_OR_HUB_ID, or its own target with --role target=PATH_OR_HUB_ID"
    )


def _has_tokenizer(checkpoint: Checkpoint) -> bool:
    if checkpoint.local:
        return any((Path(checkpoint.location) / name).is_file() for name in TOKENIZER_FILES)
    try:
        return any(
            cached_file(
                checkpoint.location,
                name,
                revision=checkpoint.revision,
                _raise_exceptions_for_missing_entries=False,
            )
            for name in TOKENIZER_FILES
        )
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", checkpoint, error) from None


def load_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Load what describes a model, without its weights.

    Raises:
        UserError: There is none.
    """
    try:
        return AutoConfig.from_pretrained(checkpoint.location, revision=checkpoint.revision)
    except (OSError, ValueError) as error:
        raise _cannot_load("configuration", checkpoint, error) from None


def stop_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids at which generation ends: the tokenizer's and the checkpoint's."""
    try:
        generation = GenerationConfig.from_pretrained(
            checkpoint.location, revision=checkpoint.revision
        )
    except OSError:  # older checkpoints say it in their configuration
        generation = GenerationConfig.from_model_config(load_config(checkpoint))
    found: set[int] = set()
    for ids in (tokenizer.eos_token_id, generation.eos_token_id):
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return frozenset(found)


def refuse_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse, by its configuration, a model whose cache cannot roll back, or that none can read.

    Raises:
        UserError: It can not, and why.
    """
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder model"
    other = forgetful_layers(config)
    if other:
        reason = f"it has layers of kind {', '.join(other)}, which forget what a rollback needs"
    if reason:
        raise UserError(f"'{name}' cannot be measured here: {reason}")
    refuse_unknown_kind(config, name)


def refuse_window(config: PreTrainedConfig, name: str) -> None:
    """Refuse to train a model with a sliding window: sequences of a training may leave it.

    Raises:
        UserError: It has one.
    """
    window = attention_window(config)
    if window is not None:
        raise UserError(
            f"'{name}' cannot be trained here: its attention has a window of {window:,} tokens, "
            "which the masks of a training do not know"
        )


def refuse_kernel(config: PreTrainedConfig, kernel: str, name: str) -> None:
    """Refuse a kernel that leaves out what a model's attention does beside the usual.

    Raises:
        UserError: Scores are capped, which only transformers' own kernel does.
    """
    cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if cap is not None and kernel != "eager":
        raise _kernel_lacks(name, f"caps its attention scores at {cap:g}", kernel)


def _kernel_lacks(name: str, what: str, kernel: str) -> UserError:
    return UserError(
        f"'{name}' {what}, which the kernel '{kernel}' does not know; run it with --attention eager"
    )


@torch.inference_mode()
def refuse_behaviour(model: PreTrainedModel, name: str) -> None:
    """Refuse a model that, rolled back and run again on several tokens, answers otherwise.

    The configuration tells much and not all (recurrent states, caches of a model's own): so try.

    Raises:
        UserError: The model fails, or its answers differ beyond rounding.
    """
    if getattr(model, "_is_stateful", False):
        raise UserError(f"'{name}' cannot be measured here: its recurrent state cannot roll back")
    size = model.config.get_text_config().vocab_size
    ids = [(7919 * i + 11) % size for i in range(6)]
    try:
        session = Session(model, capacity=8)
        straight = session.prefill(torch.tensor(ids, device=model.device)).logits[-1].float()
        session.prefill(torch.tensor(ids[:2], device=model.device))
        session.forward([ids[5], ids[4], ids[2]])
        session.keep(0)
        session.forward([ids[2], ids[3], ids[5]])
        session.keep(2)
        again = session.forward(ids[4:]).logits[-1].float()
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"'{name}' cannot be measured here: its cache fails ({reason})") from None
    # Kernels for quantised weights compute in half precision, whatever the states' is.
    precision = torch.bfloat16 if is_quantised(model) else model.dtype
    tolerance = 64 * torch.finfo(precision).eps * float(straight.abs().max().clamp(min=1e-3))
    if not torch.allclose(straight, again, rtol=0.0, atol=tolerance):
        raise UserError(
            f"'{name}' cannot be measured here: rolled back, its cache gives other logits "
            f"(off by {float((straight - again).abs().max()):.2g})"
        )


@functools.cache  # hashing gigabytes takes a while
def fingerprint(checkpoint: Checkpoint) -> str:
    """Return what identifies the weights: a SHA-256 over a folder's files, or the Hub's commit.

    Raises:
        UserError: They cannot be read.
    """
    if not checkpoint.local:
        commit = getattr(load_config(checkpoint), "_commit_hash", None)
        return f"hub:{commit or 'unknown commit'}"
    total = hashlib.sha256()
    for file in sorted(Path(checkpoint.location).iterdir()):
        if file.suffix in (".safetensors", ".bin", ".json", ".model", ".pt"):
            with reading(file), file.open("rb") as handle:
                total.update(f"{file.name}\0".encode())
                total.update(hashlib.file_digest(handle, "sha256").digest())
    return f"sha256:{total.hexdigest()}"
