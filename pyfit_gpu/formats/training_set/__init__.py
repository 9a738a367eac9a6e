"""The HDF5 training set (docs/formats/training_set.md): writer, reader, shards, splits under names."""
