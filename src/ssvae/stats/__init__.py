"""Pure maths on tensors: correlation, spectra, eigenspectra, moments, distances."""
