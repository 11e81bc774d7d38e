"""Runs programs that nobody has read, confined.

This module imports nothing, as the confined process loads it.
"""
