"""The decisions of a run whose stages are processes of their own: which, where and on what is for others to know."""
