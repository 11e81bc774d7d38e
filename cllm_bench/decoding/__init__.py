"""One reply: the loop, sampling, stop strings, chat templates, exactness.

An idea for decoding is a method; order and repeats are in measurement/.
"""
