"""What it costs to run a worker in a container: speed, first token, start and memory beside the same worker bare."""
