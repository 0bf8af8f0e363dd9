"""What applications subclass, and the pure rules about what handlers are given and return."""
