"""Where the stages of a run live: in this process, or as actors on Ray."""
