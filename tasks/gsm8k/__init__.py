"""GSM8K: worked word problems."""

from .task import Gsm8k

__all__ = ["Gsm8k"]
