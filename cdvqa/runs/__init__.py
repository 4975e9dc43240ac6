"""What a run is: its identity, its folder, the runs it starts from, and where it logs."""
