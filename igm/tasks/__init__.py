"""What a concept is: one file for each kind."""
