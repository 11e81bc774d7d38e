"""Plumbing that knows no model: plug-ins, settings, files, resume, ids of samples.

What knows weights is in engine/, what knows the computer in machine/.
"""
