"""A judge that is a local checkpoint and decodes greedily with the baseline method."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from cllm_bench.contracts import Decoder, JudgePrompt, LibraryDecoder, Sampling
from cllm_bench.core.registry import Registry
from cllm_bench.engine.family import ModelFamily, find_family
from cllm_bench.engine.runtime import Runtime
from cllm_bench.errors import UserError
from cllm_bench.judge.endpoint import MAX_TOKENS
from cllm_bench.judge.protocol import NoOpinion, Opinion

if TYPE_CHECKING:
    from torch import Tensor


class LocalJudge:
    """A checkpoint that grades replies, loaded with the first prompt.

    Args:
        model: Folder of a checkpoint or family, or an id on the Hub.
        runtime: Device and precision.
        registry: Registered methods, among them the baseline.

    Attributes:
        name: Name of the model, marked as local.
        identity: Distinguishes its weights from others in a folder of the same name.
        parallel: Always 1.

    Raises:
        UserError: The model does not exist.
    """

    parallel = 1

    def __init__(self, model: str, runtime: Runtime, registry: Registry) -> None:
        try:
            family = find_family(model)
            self._checkpoint = family.checkpoint("target")
        except UserError as error:
            raise UserError(
                f"--judge {model} without --judge-url must be a local checkpoint, but: {error}"
            ) from None
        self.name = f"{family.name} (local)"
        self._model = model
        self._runtime = runtime
        self._registry = registry

    def ask(self, prompt: JudgePrompt) -> Opinion:
        """Decode the answer to a prompt."""
        from cllm_bench.decoding.loop import generate
        from cllm_bench.engine.clock import device_clock

        prompt_ids = self._prompt_ids(prompt)
        decoder = self._decoder
        try:
            found = generate(
                decoder,
                prompt_ids,
                sampling=Sampling(),
                max_new_tokens=MAX_TOKENS,
                stop_ids=self._family.stop_ids,
                clock=device_clock(*self._family.runtime.devices),
            )
        except UserError as error:  # the prompt does not fit into the context
            raise NoOpinion(str(error), own=True) from None
        text = self._family.tokenizer.decode(list(found.token_ids), skip_special_tokens=True)
        return Opinion(str(text), 1, len(prompt_ids), len(found.token_ids))

    def stop(self) -> None:
        """Do nothing: a local judge never waits."""

    @cached_property
    def identity(self) -> str:
        """Hash of the checkpoint's files, or the commit on the Hub.

        Raises:
            UserError: The files cannot be read.
        """
        from cllm_bench.engine.loading import fingerprint

        return fingerprint(self._checkpoint)

    @cached_property
    def _family(self) -> ModelFamily:
        return find_family(self._model, runtime=self._runtime.resolve())

    @cached_property
    def _decoder(self) -> Decoder | LibraryDecoder:
        _, baseline = self._registry.baseline()
        decoder: Decoder | LibraryDecoder = baseline().bind(self._family)
        return decoder

    def _prompt_ids(self, prompt: JudgePrompt) -> Tensor:
        import torch
        from jinja2 import TemplateError

        tokenizer = self._family.tokenizer
        if not tokenizer.chat_template:
            raise UserError(f"judge '{self._model}' has no chat template; use a chat model")
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the chat template of judge '{self._model}' does not support a system prompt "
                f"({reason}); use another judge"
            ) from None
        ids = tokenizer(text, add_special_tokens=False).input_ids
        return torch.tensor(ids, device=self._family.runtime.device)
