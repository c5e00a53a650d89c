"""Where every record is, for operators: accounts, dead letters, and how they are shown."""
