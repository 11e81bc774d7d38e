"""Compares two stored runs: what differs between them, and which is faster, slower or better."""

from __future__ import annotations
