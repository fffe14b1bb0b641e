"""The loop: what a step works on, what it computes, what is done when something goes wrong."""
