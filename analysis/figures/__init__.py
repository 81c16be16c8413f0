"""Figures of runs, for papers and notebooks: `python -m analysis.figures`, or one function for each figure."""
