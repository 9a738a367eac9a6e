"""The verb `fit`: from data to a committee of potentials and its report, as a row of the other verbs' commands."""
