"""What is known about a program without changing it."""
