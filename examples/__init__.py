"""Programs that use skipc, small enough to be read whole."""
