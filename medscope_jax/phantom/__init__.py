"""The phantom suite: procedures drawn by a program, and the questions about them."""
