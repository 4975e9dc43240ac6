"""What the processes of one run share: gradients and gathered values."""
