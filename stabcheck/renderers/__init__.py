"""One file per output: the report (`terminal` and its parts), the log of gradients, the documentation, the live display.

A renderer returns text made from the plain data it is given (Report, Recording, catalogue, events); only `progress`
writes, to the stream that it is handed.
"""
