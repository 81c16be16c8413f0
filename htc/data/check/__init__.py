"""`python -m htc.data.check`: what a data set holds, and every problem in it."""
