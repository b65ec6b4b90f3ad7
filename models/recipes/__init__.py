"""One module per recipe or family of recipes."""
