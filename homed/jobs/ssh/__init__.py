"""Commands and scripts on other machines, over SSH: the only place that knows how that is spoken."""
