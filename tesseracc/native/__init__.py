"""A bundle's CPU code and plans as one shared library with a C interface, for programs without Python."""
