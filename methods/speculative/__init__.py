"""Speculative decoding with a draft model, and the recipe that distils one."""

from .method import Speculative

__all__ = ["Speculative"]
