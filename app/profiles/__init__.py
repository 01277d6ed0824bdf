"""Where the time of an engine goes: the profile as a job leaves it, and what two of them say of each other."""
