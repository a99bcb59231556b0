"""Where conversions read from."""
