"""What jobs print: kept in two files, byte for byte, bounded, and put into one order that is followed and resumed."""
