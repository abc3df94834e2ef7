"""One file per check that only reads the Recording. Nothing here imports torch."""
