"""The process that reads and writes the board's data for homed, which may not: started for one operation, then gone."""
