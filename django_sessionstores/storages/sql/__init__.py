"""Sessions in a database table, and the statements and transactions of databases."""
