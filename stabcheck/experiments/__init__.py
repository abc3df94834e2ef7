"""One file per check that works with live Sessions, named after it: its words, its thresholds, its rules and what it concludes.
What it measures with is in `stabcheck.trial`.

A check with many rules has parts beside it: `_<check>_<part>.py`. torch is imported inside the functions, so that the catalogue
loads without it.
"""
