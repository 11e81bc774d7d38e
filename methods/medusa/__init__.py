"""Medusa: further heads guess a tree; the recipe that trains them."""

from .method import Medusa

__all__ = ["Medusa"]
