"""Decides, measures, proves and reports; the only room that reads files, runs models and looks at the clock."""
