"""Many structurally different graphs, and what skipc makes of each."""
