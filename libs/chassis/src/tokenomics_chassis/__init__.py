"""The process runtime all services share; it knows no business word."""
