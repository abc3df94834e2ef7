"""Fitting one batch: which one, at which levels of the loss it is judged, and each attempt."""
