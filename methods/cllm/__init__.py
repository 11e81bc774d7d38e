"""The CLLM: decoding with a model that was trained for it, and its recipe."""

from .method import Cllm

__all__ = ["Cllm"]
