"""A compiled file behind HTTP, with its decision log, monitor and metrics."""
