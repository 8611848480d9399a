"""Context-I2W: its network, and its queries."""
