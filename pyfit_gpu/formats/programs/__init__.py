"""Structures that other programs wrote: one module per format, and what files look like that are not read."""
