"""The files on disk: the folder of a run, its lines and their parsers.

Statistics and tables are in report/.
"""
