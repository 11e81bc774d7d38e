"""Where weights are, a folder in Hugging Face's layout or an id on the Hub; and how quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cllm_bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_PACKAGE = Path(str(files("cllm_bench"))).resolve()
_SHORT = {"bitsandbytes": "bnb", "compressed-tensors": "ct"}
_BITS = ("bits", "w_bit", "nbits", "num_bits")  # as different libraries call them


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the weights of a role are: a folder, or an id on the Hub with an optional revision."""

    location: str
    revision: str | None = None

    @property
    def local(self) -> bool:
        """Whether it is a folder on this machine."""
        return Path(self.location).is_dir()

    @property
    def origin(self) -> tuple[Literal["bundled", "folder", "hub"], str]:
        """The kind of place that the weights are in, and where there.

        That of a bundled one is relative to the package, the same wherever it is installed.
        """
        if not self.local:
            return "hub", self.location
        folder = Path(self.location)
        if folder.is_relative_to(_PACKAGE):
            return "bundled", folder.relative_to(_PACKAGE).as_posix()
        return "folder", self.location


def find_checkpoint(text: str, root: Path, context: str) -> Checkpoint:
    """Resolve a path, relative to `root`, or an id on the Hub.

    Args:
        text: What the user wrote.
        root: Where relative paths begin.
        context: Names the place of the text in errors.

    Raises:
        UserError: It is neither.
    """
    folder = root / Path(text).expanduser()
    if folder.is_dir():
        return Checkpoint(str(folder.resolve()))
    if not looks_like_hub_id(text):
        raise UserError(f"{context}: no folder '{folder}'; a Hub id has the form OWNER/NAME")
    return hub_checkpoint(text)


def hub_checkpoint(text: str) -> Checkpoint:
    """Parse `OWNER/NAME` or `OWNER/NAME@REVISION`."""
    location, _, revision = text.partition("@")
    return Checkpoint(location, revision or None)


def looks_like_hub_id(text: str) -> bool:
    """Tell whether a text has the form of an id on the Hub."""
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not text.endswith("/")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What a checkpoint with quantised weights is run as.

    Attributes:
        kind: The library or format, with the bits of a weight where it says them: `bnb-4bit`,
            `gptq-4bit`, `mxfp4`.
        dtype: Precision of all other weights and of the states, as the checkpoint says.
        expanded: Whether the weights were turned into that precision when they were loaded, since
            this machine, or the library, has no kernel for them.
    """

    kind: str
    dtype: str
    expanded: bool = False


def declared_kind(config: PreTrainedConfig) -> str | None:
    """Return how a configuration says that the weights are quantised; None where they are not.

    Args:
        config: As it is stored, not of a loaded model.
    """
    declared = _declared(config)
    if declared is None:
        return None
    four, eight = declared.get("load_in_4bit"), declared.get("load_in_8bit")
    method = str(declared.get("quant_method") or ("bitsandbytes" if four or eight else "unknown"))
    name = _SHORT.get(method, method)
    bits = 4 if four else 8 if eight else _bits(declared)
    return name if bits is None else f"{name}-{bits}bit"


def refuse_unknown_kind(config: PreTrainedConfig, name: str) -> None:
    """Refuse a quantisation that transformers does not know: it would read the weights as they are.

    Raises:
        UserError: It is one.
    """
    from transformers.quantizers import AutoHfQuantizer

    declared = _declared(config)
    try:
        known = declared is None or AutoHfQuantizer.supports_quant_method(declared)
    except ValueError:
        known = False
    if not known:
        raise UserError(
            f"'{name}' cannot be measured here: this transformers does not know its quantisation, "
            f"'{declared_kind(config)}'"
        )


def is_expanded(config: PreTrainedConfig, device: str) -> bool:
    """Tell whether transformers will turn quantised weights into ordinary ones when it loads them.

    Args:
        config: As it is stored.
        device: Where they go; without a kernel for them there, they are expanded.

    Raises:
        Exception: A package is missing, or the quantisation does not run on this machine.
    """
    from transformers.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(_declared(config), pre_quantized=True)
    quantizer.validate_environment(device_map={"": device}, weights_only=True)
    return bool(getattr(quantizer.quantization_config, "dequantize", False))


def is_quantised(model: PreTrainedModel) -> bool:
    """Tell whether the weights of a loaded model are quantised as it runs."""
    return getattr(model.config, "quantization_config", None) is not None


def _declared(config: PreTrainedConfig) -> Mapping[str, Any] | None:
    for each in (config, config.get_text_config()):
        found = getattr(each, "quantization_config", None)
        if found is not None:
            return dict(found) if isinstance(found, Mapping) else dict(found.to_dict())
    return None


def _bits(settings: Mapping[str, Any]) -> int | None:
    """Return the bits of a weight, from wherever the settings of a library hold them."""
    for key in _BITS:
        if isinstance(settings.get(key), int):
            return int(settings[key])
    for each in settings.values():
        found = _bits(each) if isinstance(each, Mapping) else None
        if found is not None:
            return found
    return None
