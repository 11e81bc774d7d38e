"""Lookahead decoding: n-grams from Jacobi trajectories, verified as they appear."""

from .method import Lookahead

__all__ = ["Lookahead"]
