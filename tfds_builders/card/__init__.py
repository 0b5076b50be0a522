"""The card of a suite: statistics, blind guesses and leaks between its splits."""
