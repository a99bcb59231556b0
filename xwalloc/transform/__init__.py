"""The mathematics: wavelet transforms, exact and in floats, and the spectral basis."""
