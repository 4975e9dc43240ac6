"""Where region features come from: one file per published format, each read image by image."""
