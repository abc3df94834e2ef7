"""The torch side: live set-ups, the instrumented trial, and what experiments compute with."""
