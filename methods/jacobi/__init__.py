"""Jacobi decoding: parallel fixed-point iteration."""

from .method import Jacobi

__all__ = ["Jacobi"]
