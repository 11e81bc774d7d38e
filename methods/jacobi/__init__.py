"""jacobi: say what belongs here."""
