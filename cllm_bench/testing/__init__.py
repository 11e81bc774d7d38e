"""Contract suites for methods and tasks of your own.

Public: a plug-in's tests import from here.
"""
