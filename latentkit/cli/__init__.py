"""The command line: one file a command, over options, plans and pictures that they share."""
