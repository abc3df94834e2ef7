"""From a user's training script to a first entry-point file. Scripts are read as text, with `ast`: never imported."""
