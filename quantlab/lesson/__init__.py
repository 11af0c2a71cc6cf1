"""What a lesson is made of: exercises that diagnose, predictions that lock, claims that are checked."""
