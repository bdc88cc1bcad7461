"""Pure library: what a training run needs and how it should be set.

Importing it loads nothing heavy.
"""
