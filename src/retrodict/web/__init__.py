"""What every web server here shares: where it listens, how much it takes in, and what browsers are told."""
