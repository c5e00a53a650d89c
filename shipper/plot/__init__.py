"""The metrics of runs as curves: read from spools, downsampled, drawn in a terminal."""
