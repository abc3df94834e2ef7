"""One file per check that works with live Sessions. torch is imported inside the functions, so that the catalogue loads without it."""
