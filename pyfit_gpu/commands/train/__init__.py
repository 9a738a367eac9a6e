"""The verb `train`: options, files, logs, resumption, the job itself."""
