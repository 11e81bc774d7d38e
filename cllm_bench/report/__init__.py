"""From rows to figures, and from figures to tables.

What lies on disk is in results/; nothing here measures.
"""
