"""The command line: one file per command, over options, plans and pictures that they share."""
