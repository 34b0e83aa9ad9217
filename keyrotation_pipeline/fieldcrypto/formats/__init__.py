"""The value formats, a package each (`spec`), and those that are only recognised. Standard library, but for codecs."""
