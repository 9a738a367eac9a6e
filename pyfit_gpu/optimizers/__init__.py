"""Optimisers of many networks at once. They know vectors and objectives, nothing of potentials or sets."""
