"""Examines data before a training: what is wrong or doubtful with structures and labels, down to file and frame."""
