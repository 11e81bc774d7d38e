"""Spider: text to SQL, graded by running it."""

from .task import Spider

__all__ = ["Spider"]
