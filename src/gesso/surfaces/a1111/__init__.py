"""The surface in the words of AUTOMATIC1111's web UI, for its clients as they are: translators, and nothing else."""
