"""The `exeunt` command, for people. The services have commands of their own."""
