"""Local structure parameters: the environment of an atom as numbers, and their exact derivatives."""
