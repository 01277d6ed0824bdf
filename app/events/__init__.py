"""What happened to models, datasets and jobs, in order; what long polls and event streams read."""
