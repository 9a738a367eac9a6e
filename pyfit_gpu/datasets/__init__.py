"""Training sets in memory: features and labels, splits, weights. No file is opened but for features read lazily."""
