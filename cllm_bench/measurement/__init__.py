"""Who is asked what, in which order, how often; and the run itself.

One reply is in decoding/, a figure in report/.
"""
