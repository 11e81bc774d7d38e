"""The command line: options, what is printed while something runs, one module a command.

Nothing here measures, trains or computes a figure.
"""
