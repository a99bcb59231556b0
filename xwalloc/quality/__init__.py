"""How far a decoded array is from its original, in figures."""
