"""What a backbone sees: region features or images."""
