"""Graph in, graph out: analysis and rewriting. No files, no clock, no inference."""
