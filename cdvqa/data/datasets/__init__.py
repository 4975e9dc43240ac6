"""One file per data set: its files, its splits, and which test sets are in or out of distribution."""
