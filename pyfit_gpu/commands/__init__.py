"""The command line: one module per verb. This file imports nothing, so that `--help` does not load torch."""
