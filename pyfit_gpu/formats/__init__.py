"""Outside file formats, one module each."""
