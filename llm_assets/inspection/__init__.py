"""Looking before and after a run: what it would do, some rows asked on trial, one row token by token."""
