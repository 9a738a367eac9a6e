"""Reports of potentials: what they hold, as one HTML page, JSON and PNGs, and limits that they must keep."""
