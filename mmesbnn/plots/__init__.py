"""Pictures that the tools draw."""
