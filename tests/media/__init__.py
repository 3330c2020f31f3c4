"""Small films of every container and codec at hand, drawn by us, with their truth."""
