"""Files that are almost models: whatever is wrong with one, skipc says so and ends with exit code 2."""
