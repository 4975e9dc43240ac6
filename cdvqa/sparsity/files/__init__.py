"""The file of a network: a bit for each masked weight, and the values that are kept."""
