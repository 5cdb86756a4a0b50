"""Files of trained networks, one bit per binary weight."""
