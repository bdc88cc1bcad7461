"""The simulator.

The real training step on fake tensors, replayed through a model of the allocator.
"""
