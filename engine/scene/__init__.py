"""What is looked at, and from where: cameras, view prompts, lights."""
