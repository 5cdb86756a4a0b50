"""Files of trained networks with one bit per binary weight."""
