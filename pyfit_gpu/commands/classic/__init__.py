"""The classic program's job: the same keys, options and files."""
