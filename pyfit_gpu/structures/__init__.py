"""Atomic structures: frames as read, padded batches on a device, cells, and the neighbours of atoms."""
