"""Training the set-up at other rates than its own: the same steps, batches and start, only the learning rate scaled."""
