"""One file per check that works with live Sessions. Names with an underscore are parts of a check beside them.

torch is imported inside the functions, so that the catalogue loads without it.
"""
