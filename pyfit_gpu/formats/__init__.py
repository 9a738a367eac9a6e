"""Outside file formats, one module each, and what a file is by its content."""
