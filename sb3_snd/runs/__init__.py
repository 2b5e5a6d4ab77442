"""A run and its files: checkpoints, logs, the learning curve and the video. Nothing here knows the Zoo."""
