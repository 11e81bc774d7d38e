"""Measure what a way of decoding really gains, and what it costs in quality."""

__version__ = "0.1.0"
