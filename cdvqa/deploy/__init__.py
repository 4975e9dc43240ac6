"""What becomes of a finished network: it answers, is compared, exported, served and pushed."""
