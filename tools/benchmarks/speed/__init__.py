"""Speed of binary networks and of their rivals: what is measured, how, and how it is shown."""
