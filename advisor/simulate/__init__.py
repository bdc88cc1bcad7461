"""The simulator: the real training step on fake tensors, replayed through a model of the allocator."""
