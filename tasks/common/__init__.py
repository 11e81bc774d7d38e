"""Shared parts of the tasks."""
