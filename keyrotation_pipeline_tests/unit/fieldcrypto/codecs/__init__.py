"""Value formats, each against the library that defines it."""
